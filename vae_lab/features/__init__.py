"""Features of networks that were trained on photographs, for adversaries, distances, evaluation and detection."""

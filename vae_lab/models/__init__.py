"""Models: VAEs, ladder VAEs, and the networks that they are made of."""

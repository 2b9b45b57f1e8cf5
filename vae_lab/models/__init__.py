"""Models: VAEs, ladder VAEs, and their networks (encoders, decoders, discriminators)."""

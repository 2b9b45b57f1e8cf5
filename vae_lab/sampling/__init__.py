"""Samplers of latents, and the images decoded from them."""

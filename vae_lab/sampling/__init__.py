"""Latents drawn from a prior or from a mixture fitted to the encoded training images."""

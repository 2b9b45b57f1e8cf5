"""Latents of one's own pictures: encoding, reconstruction, likelihood, and paths through the latent space."""

"""Distributions from which latents are drawn, and the images decoded from these latents."""

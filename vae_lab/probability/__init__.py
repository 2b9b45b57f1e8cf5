"""Densities, likelihoods, priors and objectives, in plain PyTorch."""

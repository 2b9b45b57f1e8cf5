"""Densities, likelihoods, priors and objectives. Plain torch."""

"""Densities, likelihoods, priors and objectives: plain torch, no device, no log, no file."""

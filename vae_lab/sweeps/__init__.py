"""Sweeps: grids and hyperparameter searches, and the trials (training runs) that they consist of."""

"""Many runs: grids, searches, and the trials that both consist of."""

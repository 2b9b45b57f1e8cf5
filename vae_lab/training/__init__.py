"""A training run, from a composed config to a run folder."""

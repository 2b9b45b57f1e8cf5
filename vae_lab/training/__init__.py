"""Training runs, from a composed config to a run folder."""

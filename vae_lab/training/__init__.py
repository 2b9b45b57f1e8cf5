"""The training of a model, from a composed Hydra config to a run folder with checkpoints and metrics."""

"""LightningModules: what one batch does to a model."""

"""LightningModules that train latent models."""

"""Adversaries (discriminator and classifier), their losses and augmentation, in plain PyTorch."""

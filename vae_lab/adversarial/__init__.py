"""Discriminators and classifiers that train a decoder, their losses and augmentation. Plain torch."""

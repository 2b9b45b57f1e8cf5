"""Data sets of images: decoded once into uint8 tensors, split by a seed, and served in batches."""

"""Image sets: decoded once into uint8 tensors, split by seed, indexed for batches."""

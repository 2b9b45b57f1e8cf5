"""Image sets: decoded once into uint8 tensors, split by seed, cut into batches by index."""

"""The cost of training and generation at each image size."""

"""The cost of training and generation of images at several image sizes."""

"""The cost of training and generation at several image sizes."""

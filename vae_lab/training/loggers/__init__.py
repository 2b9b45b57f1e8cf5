"""Lightning loggers of metrics and images."""

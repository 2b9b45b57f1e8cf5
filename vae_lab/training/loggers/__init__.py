"""Loggers of metrics and pictures."""

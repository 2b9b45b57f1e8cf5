"""Anomaly scores: functions of a model and a batch of images, larger for rarer images."""

"""Anomaly scores: functions of a model and a batch of images; higher is more anomalous."""

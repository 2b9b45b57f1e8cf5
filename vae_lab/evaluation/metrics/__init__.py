"""Evaluation metrics: functions from tensors to numbers with intervals."""

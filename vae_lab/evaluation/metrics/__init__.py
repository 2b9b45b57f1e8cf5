"""Evaluation metrics: tensors in, numbers with intervals out."""

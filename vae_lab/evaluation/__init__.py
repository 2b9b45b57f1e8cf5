"""Figures and metrics: tensors in, tensors out; no logger, no files."""

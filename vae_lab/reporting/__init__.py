"""Comparison of many runs. No torch."""

"""Comparison of runs in a report, without importing torch."""

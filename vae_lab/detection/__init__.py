"""Anomaly scores, their calibration, p-values and tables."""

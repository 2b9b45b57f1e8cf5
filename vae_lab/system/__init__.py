"""Helpers for files, processes, devices and text that know nothing of models."""

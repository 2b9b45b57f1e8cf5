"""Hydra in front of a command; one sentence and an exit code behind it."""

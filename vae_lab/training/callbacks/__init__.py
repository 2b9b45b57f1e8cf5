"""Whatever watches a run: pictures, clocks, checkpoints, signals."""

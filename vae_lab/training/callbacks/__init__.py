"""Lightning callbacks: figures, timing, checkpoints, signals."""

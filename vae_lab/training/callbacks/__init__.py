"""Lightning callbacks: pictures, clocks, checkpoints, signals."""

"""Where metrics and pictures go."""

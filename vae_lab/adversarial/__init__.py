"""What plays against a decoder: adversaries, their losses, and what keeps the game in bounds. Plain torch."""

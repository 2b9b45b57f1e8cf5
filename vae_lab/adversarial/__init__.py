"""What plays against a decoder: opponents, their losses, and what keeps the game in bounds. Plain torch."""

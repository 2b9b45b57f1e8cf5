"""Run folders: where their files are, how they are read, and what they were made of."""

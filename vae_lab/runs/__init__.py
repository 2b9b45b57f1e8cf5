"""Run folders: where their files are, how they are read, and what they were made of.

`load_model`, `load_data`, `load_checkpoint` and `encode_images` are imported from here; torch is imported by their
first call.
"""

from vae_lab.runs.load import encode_images, load_checkpoint, load_data, load_model

__all__ = ["encode_images", "load_checkpoint", "load_data", "load_model"]

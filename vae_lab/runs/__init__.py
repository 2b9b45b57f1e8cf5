"""Run folders: layout, safe loading, and the settings and images of a run.

`load_model`, `load_data`, `load_checkpoint` and `encode_images` are imported from here; their first call imports torch.
"""

from vae_lab.runs.load import encode_images, load_checkpoint, load_data, load_model

__all__ = ["encode_images", "load_checkpoint", "load_data", "load_model"]

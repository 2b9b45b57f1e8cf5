"""Run folders: layout, safe loading, and the settings and images of a run.

`load_model`, `load_data` and `load_checkpoint` are imported from here; their first call imports torch.
"""

from vae_lab.runs.load import load_checkpoint, load_data, load_model

__all__ = ["load_checkpoint", "load_data", "load_model"]

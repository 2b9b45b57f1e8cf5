"""vae_lab: an experiment platform for variational autoencoders on images.

A VAE is three distributions: a prior p(z), a posterior q(z | x) and a generative density p(x | z). The model returns
them as `torch.distributions` objects, and every loss, bound, score and sampler is a short function of the three.

The public functions are imported from here: `train_run`, `load_model`, `load_data`, `encode_images`,
`reconstruct_images`, `generate_images`, `interpolate_images`, `log_likelihood` and `score_images`. Each is imported at
its first use, so that `import vae_lab` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vae_lab.detection.score_images import score_images
    from vae_lab.latents.encoding import encode_images, log_likelihood, reconstruct_images
    from vae_lab.latents.interpolation import interpolate_images
    from vae_lab.runs.load import load_data, load_model
    from vae_lab.sampling.images import generate_images
    from vae_lab.training.run import train_run

__version__ = "0.1.0"

__all__ = [
    "encode_images",
    "generate_images",
    "interpolate_images",
    "load_data",
    "load_model",
    "log_likelihood",
    "reconstruct_images",
    "score_images",
    "train_run",
]

PLACES = {
    "encode_images": "vae_lab.latents.encoding",
    "generate_images": "vae_lab.sampling.images",
    "interpolate_images": "vae_lab.latents.interpolation",
    "load_data": "vae_lab.runs.load",
    "load_model": "vae_lab.runs.load",
    "log_likelihood": "vae_lab.latents.encoding",
    "reconstruct_images": "vae_lab.latents.encoding",
    "score_images": "vae_lab.detection.score_images",
    "train_run": "vae_lab.training.run",
}
"""The module of each public function."""


def __getattr__(name: str) -> object:
    """Return the public function `name`, imported from its module at the first use."""
    if name not in PLACES:
        raise AttributeError(f"module 'vae_lab' has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    """Return the names of the package's attributes, including public functions that are not imported yet."""
    return sorted({*globals(), *__all__})

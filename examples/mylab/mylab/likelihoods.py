"""A likelihood that is less impressed by single wrong pixels than a normal density."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent
from torch.distributions import Laplace as LaplaceDensity

from vae_lab.probability.distributions import full_precision
from vae_lab.probability.likelihoods import Likelihood


class Laplace(Likelihood):
    """A Laplace density around the sigmoid of the decoder's output: the absolute error, divided by `scale`.

    Args:
        scale: of the density, in units of the pixels, which lie in [0, 1].
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ValueError(f"likelihood.scale must be a positive number, not {scale}.")
        self.scale = scale

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> Independent:
        """Return the density over images around sigmoid(output)."""
        mean = torch.sigmoid(full_precision(output))
        return Independent(LaplaceDensity(mean, torch.full_like(mean, self.scale), validate_args=False), 3)

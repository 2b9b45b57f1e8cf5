"""Generative densities p(x | z), each a function of what the decoder puts out.

Every likelihood takes the decoder's raw output and returns a `Distribution` over images: `mean` is the expected image
in [0, 1], `log_prob` is one number per image, in nats.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lab.probability.distributions import IsotropicNormal, full_precision


class Likelihood(nn.Module, ABC):
    """A generative density: how many numbers per channel it needs from the decoder, and what it makes of them."""

    params_per_channel: int = 1

    @abstractmethod
    def forward(self, output: Float[Tensor, "batch params height width"]) -> Distribution:
        """Return the density over images, batch [batch] and event [channels, height, width]."""


class Gaussian(Likelihood):
    """A normal around the sigmoid of the decoder's output, with one fixed variance.

    At variance 1/2 the negative log-density is the summed squared error plus D/2 ln(pi): 448.734 nats for 28x28 pixels.
    """

    def __init__(self, variance: float) -> None:
        super().__init__()
        if not 0 < variance < float("inf"):
            raise ValueError(f"likelihood.variance must be a positive number, not {variance}.")
        self.variance = variance

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> IsotropicNormal:
        """Return the density over images around sigmoid(output)."""
        return IsotropicNormal(torch.sigmoid(full_precision(output)), self.variance)

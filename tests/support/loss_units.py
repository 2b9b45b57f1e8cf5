"""Loss conventions of other libraries converted to nats, beta and sigma^2.

A loss that adds squared errors and a KL with some weights,

    loss = squares * SSE + divergence * KL,      SSE summed over pixels, KL over latents, both per image,

is, up to a factor and a constant, the negative ELBO of a normal density with the rate weighted by beta:

    SSE / (2 sigma^2) + D/2 ln(2 pi sigma^2) + beta KL,      beta = divergence / (2 sigma^2 squares).

One equation for two unknowns: such a loss doesn't say which sigma^2 and beta it means. Choose one; the other follows.
"""

import math
from typing import NamedTuple


def normalizer(ndimensions: int, variance: float) -> float:
    """Return D/2 ln(2 pi sigma^2), in nats: what a squared error lacks to be a negative log-density."""
    return ndimensions / 2 * math.log(2 * math.pi * variance)


class SquaredErrorLoss(NamedTuple):
    """A loss per image, `squares` times the summed squared error plus `divergence` times the KL.

    Attributes:
        squares: weight of the squared error summed over pixels and channels; 1/D where a loss takes the mean.
        divergence: weight of the KL summed over latents.
    """

    squares: float
    divergence: float

    def beta(self, variance: float) -> float:
        """Return the weight of the rate in nats, if the density's variance is `variance`."""
        return self.divergence / (2 * variance * self.squares)

    def variance(self, beta: float) -> float:
        """Return the density's variance, if the rate in nats has weight `beta`; at beta 1 the loss is an ELBO."""
        return self.divergence / (2 * beta * self.squares)

    def nats(self, loss: float, ndimensions: int, variance: float) -> float:
        """Return distortion + beta * rate in nats for a loss of images with `ndimensions` pixels times channels."""
        return loss / (2 * variance * self.squares) + normalizer(ndimensions, variance)

    def loss(self, nats: float, ndimensions: int, variance: float) -> float:
        """Return the loss for distortion + beta * rate in nats."""
        return (nats - normalizer(ndimensions, variance)) * 2 * variance * self.squares


SEED = SquaredErrorLoss(squares=1.0, divergence=1.0)
"""The 2018 project's SSE + KL, a negative ELBO at variance 1/2: 448.734 nats are missing at 28x28."""

PYTHAE = SquaredErrorLoss(squares=0.5, divergence=1.0)
"""pythae 0.1.2's VAE with reconstruction_loss="mse", a negative ELBO at variance 1."""


def pixel_mean(kl_weight: float, ndimensions: int) -> SquaredErrorLoss:
    """Return PyTorch-VAE's loss, the squared error's mean over pixels plus `kld_weight` times the KL."""
    return SquaredErrorLoss(squares=1 / ndimensions, divergence=kl_weight)

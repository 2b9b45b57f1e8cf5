"""A Gaussian mixture in a principal subspace, for data with too few vectors to fit full covariances."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.probability.distributions import UncheckedDistribution


class SubspaceMixture(UncheckedDistribution):
    """A distribution with any density along k directions and one variance along all others: batch [], event [n].

    z = location + directions t + noise, with t drawn from `inner` and noise in the n - k dimensions orthogonal to the
    directions. Rotations preserve volume, so log p(z) = log inner(t) + log N(rest; 0, variance I). If `inner` is a
    normal, this is probabilistic PCA (Tipping and Bishop 1999, https://doi.org/10.1111/1467-9868.00196); if it is a
    mixture, the components share the directions and the noise.

    Args:
        location: [n].
        directions: orthonormal columns, [n, k].
        inner: density over vectors of length k.
        variance: variance along every other direction.
    """

    def __init__(
        self,
        location: Float64[Tensor, " n"],
        directions: Float64[Tensor, "n k"],
        inner: Distribution,
        variance: Float64[Tensor, ""],
    ) -> None:
        self.location = location
        self.directions = directions
        self.inner = inner
        self.rest = variance
        super().__init__(torch.Size(), location.shape)

    @property
    def mean(self) -> Tensor:
        """The mean, [n]."""
        return self.location + self.directions @ self.inner.mean

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws, [sample_shape, n]."""
        shape = torch.Size(sample_shape)
        noise = torch.randn(shape + self.location.shape, dtype=self.location.dtype) * self.rest.sqrt()
        noise = noise - noise @ self.directions @ self.directions.T
        return self.location + self.inner.sample(shape) @ self.directions.T + noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of `value`, [..., n], in nats."""
        centred = value.to(self.location) - self.location
        inside = centred @ self.directions
        squares = (centred.square().sum(-1) - inside.square().sum(-1)).clamp(min=0)
        nothers = self.directions.shape[0] - self.directions.shape[1]
        constant = 0.5 * nothers * (2 * math.pi * self.rest).log()
        return self.inner.log_prob(inside) - 0.5 * squares / self.rest - constant

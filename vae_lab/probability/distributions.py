"""Diagonal and isotropic normal distributions, mixtures of them, and the KL divergence.

`log_prob` sums over the event dimensions and returns one number per image, in nats.
"""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl

from vae_lab.system.printing import shapes

LINEAR_FROM, LINEAR_TO, REACH = -8.0, 2.0, 2.0


def full_precision(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return a half-precision tensor as float32, and a float32 or float64 tensor unchanged."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def bounded_log_sigma(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `raw` smoothly bounded to (-10, 4), in full precision; values in [-8, 2] do not change.

    Outside, an excess u becomes u / (1 + |u| / 2), which has slope 1 at u = 0. Its gradient is still usable at
    u = 1e4, and sigma^2 stays below 2,981, which is finite even in float16.
    """
    raw = full_precision(raw)
    inside = raw.clamp(LINEAR_FROM, LINEAR_TO)
    outside = raw - inside
    return inside + outside / (1 + outside.abs() / REACH)


class UncheckedDistribution(Distribution):
    """A distribution over real numbers without torch's argument validation; its repr shows its shapes."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    __repr__ = shapes

    def __init__(self, batch_shape: torch.Size, event_shape: torch.Size) -> None:
        super().__init__(batch_shape, event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The constraint that values are real numbers."""
        return constraints.independent(constraints.real, len(self.event_shape))


class DiagonalNormal(UncheckedDistribution):
    """Independent normals over the last dimension, parametrized by mean and log sigma: batch [...], event [n].

    Example:
        >>> import torch
        >>> from vae_lab.probability.distributions import DiagonalNormal, StandardNormal, kl
        >>> posterior = DiagonalNormal(mean=torch.ones(2, 8), log_sigma=torch.zeros(2, 8))
        >>> posterior
        DiagonalNormal(batch_shape=[2], event_shape=[8])
        >>> kl(posterior, StandardNormal(torch.zeros(8)), posterior.sample())
        tensor([4., 4.])
    """

    has_rsample = True

    def __init__(self, mean: Float[Tensor, "*batch n"], log_sigma: Float[Tensor, "*batch n"]) -> None:
        self.loc = mean
        self.log_sigma = log_sigma
        super().__init__(mean.shape[:-1], mean.shape[-1:])

    @property
    def mean(self) -> Tensor:
        """The mean, [..., n]."""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """The standard deviation, [..., n]."""
        return self.log_sigma.exp()

    @property
    def variance(self) -> Tensor:
        """The variance, [..., n]."""
        return (2 * self.log_sigma).exp()

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return mean + sigma * noise, differentiable in both: [sample_shape, ..., n]."""
        noise = torch.randn(torch.Size(sample_shape) + self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.stddev, noise)

    def each_latent(self) -> "DiagonalNormal":
        """Return the univariate normal of each latent: batch [..., n], event [1]."""
        return DiagonalNormal(self.loc[..., None], self.log_sigma[..., None])

    def detached(self) -> "DiagonalNormal":
        """Return the same normal with parameters detached from the autograd graph."""
        return DiagonalNormal(self.loc.detach(), self.log_sigma.detach())

    def log_prob(self, value: Float[Tensor, "*shape n"]) -> Float[Tensor, "*broadcast"]:
        """Return the log-density of `value`, summed over the last dimension, in nats; batch shapes broadcast."""
        standard = (value - self.loc) * (-self.log_sigma).exp()
        return (-0.5 * standard.square() - self.log_sigma - 0.5 * math.log(2 * math.pi)).sum(-1)


class StandardNormal(DiagonalNormal):
    """The standard normal N(0, I) over the last dimension.

    It is a separate class because its KL divergence has a shorter formula.
    """

    def __init__(self, zeros: Float[Tensor, "*batch n"]) -> None:
        super().__init__(zeros, zeros)

    def each_latent(self) -> "StandardNormal":
        """Return the univariate normal N(0, 1) of each latent: batch [..., n], event [1]."""
        return StandardNormal(self.loc[..., None])


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_normal_normal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    """Return KL(q || p) of two diagonal normals in closed form, summed over the last dimension."""
    squares = (2 * (q.log_sigma - p.log_sigma)).exp() + (q.loc - p.loc).square() * (-2 * p.log_sigma).exp()
    return (p.log_sigma - q.log_sigma + 0.5 * (squares - 1)).sum(-1)


@register_kl(DiagonalNormal, StandardNormal)
def _kl_normal_standard(q: DiagonalNormal, _: StandardNormal) -> Tensor:
    """Return KL(q || N(0, I)) of a diagonal normal q in closed form, summed over the last dimension.

    Kingma and Welling 2014, appendix B, https://arxiv.org/abs/1312.6114.
    """
    return -0.5 * (1 + 2 * q.log_sigma - q.loc.square() - (2 * q.log_sigma).exp()).sum(-1)


class MixtureOfDiagonalNormals(UncheckedDistribution):
    """A mixture of diagonal normals with equal weights: batch [], event [n].

    torch's MixtureSameFamily would build a tensor of [z, components, latents]. Here two matrix products give the
    squared distances, in double precision because large terms cancel.

    Args:
        components: k normals, batch [k].
    """

    def __init__(self, components: DiagonalNormal) -> None:
        self.components = components
        super().__init__(torch.Size(), components.event_shape)

    @property
    def mean(self) -> Tensor:
        """The mean, [n]."""
        return self.components.mean.mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of each latent, [n]: the variance within components plus the variance of their means."""
        return self.components.variance.mean(0) + self.components.mean.var(0, correction=0)

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return sampled latents, [sample_shape, n]."""
        chosen = torch.randint(len(self.components.loc), tuple(sample_shape), device=self.components.loc.device)
        return DiagonalNormal(self.components.loc[chosen], self.components.log_sigma[chosen]).rsample()

    def log_prob(self, value: Float[Tensor, "*shape n"]) -> Float[Tensor, "*shape"]:
        """Return the log-density of `value`, in nats."""
        z, mean, log_sigma = (t.double() for t in (value, self.components.loc, self.components.log_sigma))
        precision = (-2 * log_sigma).exp()
        squares = z.square() @ precision.T - 2 * z @ (precision * mean).T + (precision * mean.square()).sum(1)
        constant = log_sigma.sum(1) + 0.5 * mean.shape[1] * math.log(2 * math.pi)
        return ((-0.5 * squares - constant).logsumexp(-1) - math.log(len(mean))).to(value.dtype)


class IsotropicNormal(UncheckedDistribution):
    """Independent normal pixels with one fixed variance: batch [...], event [C, H, W]."""

    has_rsample = True

    def __init__(self, mean: Float[Tensor, "*batch channels height width"], variance: float) -> None:
        self.loc = mean
        self.fixed_variance = variance
        super().__init__(mean.shape[:-3], mean.shape[-3:])

    def __repr__(self) -> str:
        return f"{shapes(self)[:-1]}, variance={self.fixed_variance})"

    @property
    def mean(self) -> Tensor:
        """The mean image."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """An image whose pixels all hold the fixed variance."""
        return torch.full_like(self.loc, self.fixed_variance)

    @property
    def log_normalizer(self) -> float:
        """The log of the normalizing constant, D/2 ln(2 pi variance), in nats."""
        return 0.5 * self.event_shape.numel() * math.log(2 * math.pi * self.fixed_variance)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return sampled images, mean plus noise: [sample_shape, ..., C, H, W]; values may lie outside [0, 1]."""
        shape = torch.Size(sample_shape) + self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + math.sqrt(self.fixed_variance) * noise

    def log_prob(self, value: Float[Tensor, "*shape channels height width"]) -> Float[Tensor, "*shape"]:
        """Return the log-density of each image, in nats."""
        squares = (value - self.loc).square().sum((-3, -2, -1))
        return squares / (-2 * self.fixed_variance) - self.log_normalizer


def kl(q: Distribution, p: Distribution, z: Float[Tensor, "*shape n"]) -> Float[Tensor, "*batch"]:
    """Return KL(q || p) in nats: in closed form if torch knows one, else log q(z) - log p(z) at `z` drawn from q."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(z) - p.log_prob(z)

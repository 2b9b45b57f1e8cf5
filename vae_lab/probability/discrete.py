"""Distributions over images whose pixels take 2 or 256 values; bits per dimension are defined for them.

A logistic variable with location m and scale s has the distribution function sigmoid((x - m) / s). After rounding to
the levels 0, 1, …, 255, level v has the probability

    P(v) = sigmoid(b) - sigmoid(a),     a = (v - 1/2 - m) / s, -inf at 0,     b = (v + 1/2 - m) / s, inf at 255

(Salimans, Karpathy, Chen and Kingma 2017, section 2.1, https://arxiv.org/abs/1701.05517; they mix k logistics). Their
code switches between the logarithm of this difference and an approximation in the tails. With d = b - a = 1 / s,

    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-d)).

The logarithm of each factor is negative and numerically stable, so their sum is accurate in the tails too.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Bernoulli, Independent, constraints
from torch.nn.functional import logsigmoid, softplus

from vae_lab.probability.distributions import UncheckedDistribution
from vae_lab.system.printing import shapes

TOP = 255
"""The highest level of an 8-bit pixel."""


class BinaryPixels(Independent):
    """Independent Bernoulli pixels with values 0 and 1, parametrized by logits: batch [...], event [C, H, W]."""

    __repr__ = shapes

    def __init__(self, logits: Float[Tensor, "*batch channels height width"]) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    def log_prob(self, value: Float[Tensor, "*shape channels height width"]) -> Float[Tensor, "*shape"]:
        """Return the log-probability of each image, in nats.

        The cross-entropy of grey pixels is not a log-density: exp(-cross-entropy) does not integrate to 1 over [0, 1]
        (Loaiza-Ganem and Cunningham 2019, https://arxiv.org/abs/1907.06845). In training on a GPU, images with a grey
        pixel get NaN in place of an error, because an error would synchronize host and device in every step. An
        exported graph has no errors and returns NaN too.

        Raises:
            ValueError: if a pixel is neither 0 nor 1.
        """
        if torch.compiler.is_exporting() or (value.device.type != "cpu" and torch.is_grad_enabled()):
            return nan_unless_binary(super().log_prob(value), value)
        binary = is_binary(value)
        if not binary.all():
            raise ValueError(
                f"likelihood=bernoulli requires pixels that are 0 or 1, not {value[~binary][0]:.3g}; choose"
                " data=mnist_binary, data.binarize=dynamic or static, or likelihood=logistic for grey images."
            )
        return super().log_prob(value)


def is_binary(value: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Return a mask of the pixels that are 0 or 1."""
    return (value == 0) | (value == 1)


def nan_unless_binary(
    log_prob: Float[Tensor, "*shape"], value: Float[Tensor, "*images channels height width"]
) -> Float[Tensor, "*shape"]:
    """Return `log_prob`, replaced by NaN for each image with a pixel that is neither 0 nor 1."""
    return log_prob.where(is_binary(value).flatten(-3).all(-1), torch.nan)


class LogisticLevels(UncheckedDistribution):
    """Independent pixels with 256 levels, each a mixture of k rounded logistics: batch [...], event [C, H, W].

    Pixels are in [0, 1] and are rounded to the nearest level v / 255.

    Args:
        log_weights: log-probabilities of the k components; the probabilities sum to 1 over the component dimension.
        location: location of each component, where 0 is black and 1 is white; values outside [0, 1] are allowed.
        log_scale: log of each component's scale, in the same unit.
    """

    def __init__(
        self,
        log_weights: Float[Tensor, "*batch k channels height width"],
        location: Float[Tensor, "*batch k channels height width"],
        log_scale: Float[Tensor, "*batch k channels height width"],
    ) -> None:
        self.log_weights = log_weights
        self.location = location
        self.log_scale = log_scale
        shape = location.shape
        super().__init__(shape[:-4], shape[-3:])

    @property
    def support(self) -> constraints.Constraint:
        """The constraint that pixels are in [0, 1]."""
        return constraints.independent(constraints.unit_interval, 3)

    @property
    def mean(self) -> Tensor:
        """The mean image, of logistics clamped to [0, 1]: the integral of sigmoid((m - t) / s) over t from 0 to 1.

        It differs from the mean over levels by at most half a level, 1/510, and is 255 times as fast to compute.
        """
        scale = self.log_scale.exp()
        above = softplus(self.location / scale) - softplus((self.location - 1) / scale)
        return (self.log_weights.exp() * scale * above).sum(-4).clamp(0, 1)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return images with pixels v / 255 for integers v: [sample_shape, ..., C, H, W]."""
        shape = torch.Size(sample_shape) + self.location.shape
        with torch.no_grad():
            gumbel = -self.location.new_empty(shape).exponential_().log()
            chosen = (self.log_weights + gumbel).argmax(-4, keepdim=True)  # a draw from the categorical distribution
            location, scale = (t.expand(shape).gather(-4, chosen).squeeze(-4) for t in (self.location, self.log_scale))
            noise = torch.rand_like(location).clamp(1e-7, 1 - 1e-7).logit()
            return ((location + scale.exp() * noise) * TOP).round().clamp(0, TOP) / TOP

    def log_prob(self, value: Float[Tensor, "*shape channels height width"]) -> Float[Tensor, "*shape"]:
        """Return the log-probability of each image, in nats."""
        level = (value * TOP).round().clamp(0, TOP).unsqueeze(-4)
        parts = log_level_probability(level, self.location * TOP, self.log_scale.exp() * TOP)
        return (self.log_weights + parts).logsumexp(-4).sum((-3, -2, -1))


def log_level_probability(
    level: Float[Tensor, "..."], location: Float[Tensor, "..."], scale: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Return log P(level) under a rounded logistic, with all arguments in units of levels; see the module docstring."""
    upper = logsigmoid((level + 0.5 - location) / scale).masked_fill(level == TOP, 0)
    lower = logsigmoid((location - level + 0.5) / scale).masked_fill(level == 0, 0)
    inner = (-torch.expm1(-1 / scale)).log().masked_fill((level == 0) | (level == TOP), 0)
    return upper + lower + inner

"""Distributions over images of 2 or 256 levels, for which bits per dimension are defined.

A logistic variable of location m and scale s has the distribution function sigmoid((x - m) / s). Rounded to the levels
0, 1, …, 255, with everything below and above kept by the first and last, level v has the probability

    P(v) = sigmoid(b) - sigmoid(a),     a = (v - 1/2 - m) / s, -inf at 0,     b = (v + 1/2 - m) / s, inf at 255

(Salimans, Karpathy, Chen and Kingma 2017, section 2.1, https://arxiv.org/abs/1701.05517, with k of them mixed). They
take the logarithm of the difference where it is large, and the density times the bin's width where it is not. There is
no need to choose: multiplying out, with d = b - a = 1 / s,

    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-d)),

three factors whose logarithms are all negative and each stable, so nothing cancels however far the tail.
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
    """Independent Bernoulli pixels, given by logits: batch [...], event [C, H, W], values 0 and 1 only."""

    __repr__ = shapes

    def __init__(self, logits: Float[Tensor, "*batch channels height width"]) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), 3, validate_args=False)

    def log_prob(self, value: Float[Tensor, "*shape channels height width"]) -> Float[Tensor, "*shape"]:
        """Return the log-probability of each image, in nats.

        The cross-entropy of a grey pixel is the logarithm of no density: its integral over [0, 1] isn't 1
        (Loaiza-Ganem and Cunningham 2019, https://arxiv.org/abs/1907.06845). While gradients are recorded on a GPU, a
        look at the pixels would make each training step wait for it; an image with a grey pixel is NaN there.

        Raises:
            ValueError: if a pixel is neither 0 nor 1.
        """
        if value.device.type != "cpu" and torch.is_grad_enabled():
            return nan_unless_binary(super().log_prob(value), value)
        binary = is_binary(value)
        if not binary.all():
            raise ValueError(
                f"likelihood=bernoulli is for pixels that are 0 or 1, not {value[~binary][0]:.3g}; choose"
                " data=mnist_binary, data.binarize=dynamic or static, or likelihood=logistic for grey images."
            )
        return super().log_prob(value)


def is_binary(value: Float[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Return where pixels are 0 or 1."""
    return (value == 0) | (value == 1)


def nan_unless_binary(
    log_prob: Float[Tensor, "*shape"], value: Float[Tensor, "*images channels height width"]
) -> Float[Tensor, "*shape"]:
    """Return the log-probabilities of images, NaN for those with a pixel that is neither 0 nor 1."""
    return log_prob.where(is_binary(value).flatten(-3).all(-1), torch.nan)


class LogisticLevels(UncheckedDistribution):
    """Independent pixels of 256 levels, each a mixture of k rounded logistics: batch [...], event [C, H, W].

    Images have pixels in [0, 1]; a pixel is read as its nearest level v / 255.

    Args:
        log_weights: log-probabilities of the k components, which sum to 1 over the component dimension.
        location: of each component; black is 0 and white 1, but it may lie outside.
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
        """Pixels from 0 to 1."""
        return constraints.independent(constraints.unit_interval, 3)

    @property
    def mean(self) -> Tensor:
        """The mean of the logistics clamped to [0, 1], which is within half a level, 1/510, of the mean of the levels.

        The integral of sigmoid((m - t) / s) over t from 0 to 1. The sum over levels would take 255 times as long.
        """
        scale = self.log_scale.exp()
        above = softplus(self.location / scale) - softplus((self.location - 1) / scale)
        return (self.log_weights.exp() * scale * above).sum(-4).clamp(0, 1)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return images whose pixels lie on the levels: [sample_shape, ..., C, H, W]."""
        shape = torch.Size(sample_shape) + self.location.shape
        with torch.no_grad():
            chosen = (self.log_weights + gumbel(self.location.new_empty(shape))).argmax(-4, keepdim=True)
            location, scale = (t.expand(shape).gather(-4, chosen).squeeze(-4) for t in (self.location, self.log_scale))
            noise = torch.rand_like(location).clamp(1e-7, 1 - 1e-7).logit()
            return ((location + scale.exp() * noise) * TOP).round().clamp(0, TOP) / TOP

    def log_prob(self, value: Float[Tensor, "*shape channels height width"]) -> Float[Tensor, "*shape"]:
        """Return the log-probability of each image, in nats."""
        level = (value * TOP).round().clamp(0, TOP).unsqueeze(-4)
        parts = log_level_probability(level, self.location * TOP, self.log_scale.exp() * TOP)
        return (self.log_weights + parts).logsumexp(-4).sum((-3, -2, -1))


def gumbel(empty: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return standard Gumbel noise, written into `empty`: the argmax of log-weights plus it is a draw by weight."""
    return -empty.exponential_().log()


def log_level_probability(
    level: Float[Tensor, "*#shape"], location: Float[Tensor, "*#shape"], scale: Float[Tensor, "*#shape"]
) -> Float[Tensor, "..."]:
    """Return the log-probability of whole levels under a rounded logistic, all in units of levels; see the module."""
    upper = logsigmoid((level + 0.5 - location) / scale).masked_fill(level == TOP, 0)
    lower = logsigmoid((location - level + 0.5) / scale).masked_fill(level == 0, 0)
    inner = (-torch.expm1(-1 / scale)).log().masked_fill((level == 0) | (level == TOP), 0)
    return upper + lower + inner

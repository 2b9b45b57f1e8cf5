"""Likelihoods p(x | z), made from the decoder's output.

Every likelihood takes the decoder's raw output and returns a `Distribution` over images: `mean` is the expected image
in [0, 1], `log_prob` is one number per image, in nats.

Two kinds, which must not be compared: densities (the normals) can be as high as they like, and so can be positive;
probabilities (Bernoulli, logistic) are at most 1, and only of them is -log2 a number of bits.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vae_lab.errors import require_count, require_number
from vae_lab.probability.discrete import TOP, BinaryPixels, LogisticLevels
from vae_lab.probability.distributions import IsotropicNormal, bounded_log_sigma, full_precision
from vae_lab.system.printing import PrintsArguments


class Likelihood(PrintsArguments, nn.Module, ABC):
    """A generative density: how many numbers per channel it needs from the decoder, and what it makes of them.

    Attributes:
        params_per_channel: numbers for each channel of each pixel, parameter by parameter: the first `channels` of the
            decoder's output hold the first one of every channel.
        nlevels: how many values a pixel can take; 0 for a density over real numbers, of which there are no bits.

    Example:
        >>> import torch
        >>> from vae_lab.probability.likelihoods import Gaussian
        >>> likelihood = Gaussian(variance=0.5)
        >>> likelihood
        Gaussian(variance=0.5)
        >>> density = likelihood(torch.zeros(2, 1, 28, 28))
        >>> density
        IsotropicNormal(batch_shape=[2], event_shape=[1, 28, 28], variance=0.5)
        >>> density.log_prob(density.mean)
        tensor([-448.7341, -448.7341])
    """

    params_per_channel: int = 1
    nlevels: int = 0

    @abstractmethod
    def forward(self, output: Float[Tensor, "batch params height width"]) -> Distribution:
        """Return the density over images, batch [batch] and event [channels, height, width]."""


class Gaussian(Likelihood):
    """A normal around the sigmoid of the decoder's output, with one fixed variance.

    At variance 1/2 the negative log-density is the summed squared error plus D/2 ln(pi): 448.734 nats for 28x28 pixels.
    """

    def __init__(self, variance: float) -> None:
        super().__init__()
        require_number("likelihood.variance", variance, "(0, inf)")
        self.variance = variance

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> IsotropicNormal:
        """Return the density over images around sigmoid(output)."""
        return IsotropicNormal(torch.sigmoid(full_precision(output)), self.variance)


class SigmaVAE(Likelihood):
    """A normal around the sigmoid of the decoder's output, with one variance for all pixels that is learned.

    The likelihood is largest where the variance is the mean squared error over images and pixels (set the derivative of
    D log sigma + SSE / (2 sigma^2) to 0). Rybkin, Daniilidis and Levine 2021, https://arxiv.org/abs/2006.13202, put
    that mean over the batch at hand into the density. Then the density of an image depends on which others are
    measured with it, and on itself: it no longer integrates to 1, and a test set would choose its own variance. Here
    log sigma is a parameter, whose optimum on the training set is the same, and evaluation has one fixed density.

    Args:
        log_sigma: where it starts.
        speed: how much faster than other parameters it moves: log sigma = speed * parameter, and Adam's steps have a
            size of their own. At 1 and a learning rate of 5e-4 it would take 4,000 batches from 1 to 0.14.
    """

    def __init__(self, log_sigma: float, speed: float) -> None:
        super().__init__()
        require_number("likelihood.speed", speed, "(0, inf)")
        self.speed = speed
        self.slow_log_sigma = nn.Parameter(torch.tensor(log_sigma / speed))

    def extra_repr(self) -> str:
        """Return where log sigma is now, and how fast it moves."""
        return f"log_sigma={round(self.log_sigma.item(), 4)}, speed={self.speed}"

    @property
    def log_sigma(self) -> Float[Tensor, ""]:
        """Log of the standard deviation that all pixels share."""
        return bounded_log_sigma(self.speed * self.slow_log_sigma)

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> Independent:
        """Return the density over images around sigmoid(output)."""
        mean = torch.sigmoid(full_precision(output))
        return Independent(Normal(mean, self.log_sigma.exp().expand_as(mean), validate_args=False), 3)


class Bernoulli(Likelihood):
    """Independent pixels that are 0 or 1, with the decoder's output as logits; grey pixels are refused."""

    nlevels = 2

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> BinaryPixels:
        """Return the probability of images of zeros and ones."""
        return BinaryPixels(full_precision(output))


class Logistic(Likelihood):
    """One rounded logistic for each of the 256-level pixels: location 1/2 + first output / 2, log scale the second.

    The location is free to leave [0, 1], as in Salimans et al. 2017, where -1 and 1 are black and white: only from
    beyond black can a logistic that is wide enough to allow for white give black nearly all of the probability.
    """

    params_per_channel = 2
    nlevels = TOP + 1

    def forward(self, output: Float[Tensor, "batch params height width"]) -> LogisticLevels:
        """Return the probability of images of 256 levels."""
        location, log_scale = full_precision(output).unflatten(1, (2, 1, -1)).unbind(1)
        return LogisticLevels(torch.zeros_like(location), 0.5 + location / 2, bounded_log_sigma(log_scale))


class LogisticMixture(Likelihood):
    """A mixture of `ncomponents` rounded logistics for each of the 256-level pixels and channels.

    Unlike Salimans et al. 2017 each channel has weights of its own and none is conditioned on another: what ties the
    channels together is z.
    """

    nlevels = TOP + 1
    spread: Float[Tensor, "ncomponents 1 1 1"]

    def __init__(self, ncomponents: int) -> None:
        super().__init__()
        require_count("likelihood.ncomponents", ncomponents)
        self.ncomponents = ncomponents
        self.params_per_channel = 3 * ncomponents
        # equal components would receive equal gradients for ever: spread the locations over [0, 1]
        spread = torch.linspace(0, 1, ncomponents + 2)[1:-1]
        self.register_buffer("spread", spread[:, None, None, None], persistent=False)

    def forward(self, output: Float[Tensor, "batch params height width"]) -> LogisticLevels:
        """Return the probability of images of 256 levels."""
        logits, location, log_scale = full_precision(output).unflatten(1, (3, self.ncomponents, -1)).unbind(1)
        location = self.spread + location / 2
        return LogisticLevels(logits.log_softmax(1), location, bounded_log_sigma(log_scale))

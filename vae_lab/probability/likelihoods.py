"""Likelihoods p(x | z), which turn the decoder's output into a distribution over images.

`mean` of the distribution is the expected image in [0, 1]; `log_prob` is one number per image, in nats.

Values of densities (normal) and of probabilities (Bernoulli, logistic) must not be compared: a log-density can be
positive, while a probability is at most 1. Only probabilities can be expressed in bits.
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
    """Base class of likelihoods, modules that map the decoder's output to p(x | z).

    Attributes:
        params_per_channel: parameters for each pixel and channel. The first `channels` channels of the decoder's output
            hold the first parameter, the next ones the second, and so on.
        nlevels: number of values that a pixel can take; 0 for a density over real numbers.

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
        """Return p(x | z), a distribution over images: batch [batch], event [channels, height, width]."""


class Gaussian(Likelihood):
    """A normal density around the sigmoid of the decoder's output, with one fixed variance.

    At variance 1/2 the negative log-density is the summed squared error plus D/2 ln(pi), which is 448.734 nats for
    28x28 pixels.
    """

    def __init__(self, variance: float) -> None:
        super().__init__()
        require_number("likelihood.variance", variance, "(0, inf)")
        self.variance = variance

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> IsotropicNormal:
        """Return the normal density over images with mean sigmoid(output) and the fixed variance."""
        return IsotropicNormal(torch.sigmoid(full_precision(output)), self.variance)


class SigmaVAE(Likelihood):
    """A normal density around the sigmoid of the decoder's output, with one learned variance for all pixels.

    The optimal variance is the mean squared error over images and pixels (set the derivative of
    D log sigma + SSE / (2 sigma^2) to 0). Rybkin, Daniilidis and Levine 2021, https://arxiv.org/abs/2006.13202, use the
    mean squared error of the current batch. An image's density then depends on the batch and on the image itself, does
    not integrate to 1, and is fitted to the test set. Here log sigma is a parameter: it has the same optimum on the
    training set, and the density is fixed in evaluation.

    Args:
        log_sigma: initial value of log sigma.
        speed: log sigma = speed * parameter, so that log sigma moves `speed` times as fast as other parameters under
            Adam. At speed 1 and a learning rate of 5e-4, sigma would take 4,000 steps from 1 to 0.14.
    """

    def __init__(self, log_sigma: float, speed: float) -> None:
        super().__init__()
        require_number("likelihood.speed", speed, "(0, inf)")
        self.speed = speed
        self.slow_log_sigma = nn.Parameter(torch.tensor(log_sigma / speed))

    def extra_repr(self) -> str:
        """Return the current log sigma and the speed as text for the repr."""
        return f"log_sigma={round(self.log_sigma.item(), 4)}, speed={self.speed}"

    @property
    def log_sigma(self) -> Float[Tensor, ""]:
        """Log of the standard deviation that all pixels share."""
        return bounded_log_sigma(self.speed * self.slow_log_sigma)

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> Independent:
        """Return the normal density over images with mean sigmoid(output) and the learned variance."""
        mean = torch.sigmoid(full_precision(output))
        return Independent(Normal(mean, self.log_sigma.exp().expand_as(mean), validate_args=False), 3)


class Bernoulli(Likelihood):
    """Independent Bernoulli pixels, with the decoder's output as logits; pixels must be 0 or 1."""

    nlevels = 2

    def forward(self, output: Float[Tensor, "batch channels height width"]) -> BinaryPixels:
        """Return the Bernoulli distribution over images of zeros and ones, with `output` as logits."""
        return BinaryPixels(full_precision(output))


class Logistic(Likelihood):
    """One logistic per pixel, rounded to 256 levels, with location 1/2 + output_1 / 2 and log scale output_2.

    The location may lie outside [0, 1], as in Salimans et al. 2017 (whose pixels are in [-1, 1]). A wide logistic can
    give black nearly all of the probability only if its location is far below 0.
    """

    params_per_channel = 2
    nlevels = TOP + 1

    def forward(self, output: Float[Tensor, "batch params height width"]) -> LogisticLevels:
        """Return the distribution over images whose pixels have 256 levels."""
        location, log_scale = full_precision(output).unflatten(1, (2, 1, -1)).unbind(1)
        return LogisticLevels(torch.zeros_like(location), 0.5 + location / 2, bounded_log_sigma(log_scale))


class LogisticMixture(Likelihood):
    """A mixture of `ncomponents` logistics per pixel and channel, rounded to 256 levels.

    Unlike in Salimans et al. 2017, each channel has its own mixture weights, and channels are independent given z.
    """

    nlevels = TOP + 1
    spread: Float[Tensor, "ncomponents 1 1 1"]

    def __init__(self, ncomponents: int) -> None:
        super().__init__()
        require_count("likelihood.ncomponents", ncomponents)
        self.ncomponents = ncomponents
        self.params_per_channel = 3 * ncomponents
        # spread the locations over [0, 1]: identical components would always receive identical gradients
        spread = torch.linspace(0, 1, ncomponents + 2)[1:-1]
        self.register_buffer("spread", spread[:, None, None, None], persistent=False)

    def forward(self, output: Float[Tensor, "batch params height width"]) -> LogisticLevels:
        """Return the distribution over images whose pixels have 256 levels."""
        logits, location, log_scale = full_precision(output).unflatten(1, (3, self.ncomponents, -1)).unbind(1)
        location = self.spread + location / 2
        return LogisticLevels(logits.log_softmax(1), location, bounded_log_sigma(log_scale))

"""Priors p(z): modules that return a `Distribution` over latents."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal

from vae_lab.errors import require_count
from vae_lab.probability import distributions
from vae_lab.system.printing import PrintsArguments


class Prior(PrintsArguments, nn.Module, ABC):
    """Base class of priors, densities over latent vectors of length `nlatent`.

    Example:
        >>> from vae_lab.probability.priors import StandardNormal
        >>> prior = StandardNormal(nlatent=8)
        >>> prior
        StandardNormal(nlatent=8)
        >>> prior()
        StandardNormal(batch_shape=[], event_shape=[8])
        >>> prior().sample((5,)).shape
        torch.Size([5, 8])
    """

    def __init__(self, nlatent: int) -> None:
        super().__init__()
        self.nlatent = nlatent

    def connect(self, encode: Callable[[Tensor], distributions.DiagonalNormal]) -> None:
        """Store the model's encoder q(z | x) in priors that use it; the base class ignores it.

        The model calls this once, at construction.
        """

    @abstractmethod
    def forward(self, posterior: Distribution | None = None) -> Distribution:
        """Return the prior distribution p(z), with event shape [nlatent].

        Args:
            posterior: the posterior that the prior will be compared with; the prior takes its batch shape. None gives
                batch shape [], for sampling.
        """


class StandardNormal(Prior):
    """The standard normal prior N(0, I)."""

    zeros: Float[Tensor, " nlatent"]

    def __init__(self, nlatent: int) -> None:
        super().__init__(nlatent)
        self.register_buffer("zeros", torch.zeros(nlatent), persistent=False)

    def forward(self, posterior: Distribution | None = None) -> distributions.StandardNormal:
        """Return N(0, I) with batch shape [], which broadcasts."""
        return distributions.StandardNormal(self.zeros)


class VampPrior(Prior):
    """A mixture of the posteriors of K = `ncomponents` learned pseudo-inputs: p(z) = 1/K sum q(z | u_k).

    Tomczak and Welling 2018, https://arxiv.org/abs/1705.07120. They clamp the pseudo-inputs u_k to [0, 1]; here they
    are sigmoids, whose gradient does not vanish at 0 and 1.

    Args:
        nlatent: length of the latent vector.
        channels: image channels.
        image_size: image height and width in pixels.
        ncomponents: number of pseudo-inputs, K.
        logit_mean: initial mean of the pseudo-inputs' logits; the logit of the mean pixel is a good value.
        logit_std: initial standard deviation of the logits.
    """

    def __init__(
        self, nlatent: int, *, channels: int, image_size: int, ncomponents: int, logit_mean: float, logit_std: float
    ) -> None:
        super().__init__(nlatent)
        require_count("prior.ncomponents", ncomponents)
        self.channels, self.image_size, self.ncomponents = channels, image_size, ncomponents
        self.logit_mean, self.logit_std = logit_mean, logit_std
        noise = torch.randn(ncomponents, channels, image_size, image_size)
        self.logits = nn.Parameter(logit_mean + logit_std * noise)

    def connect(self, encode: Callable[[Tensor], distributions.DiagonalNormal]) -> None:
        """Store the model's encoder q(z | x), which gives the components of the mixture."""
        self.encode = encode

    def forward(self, posterior: Distribution | None = None) -> distributions.MixtureOfDiagonalNormals:
        """Return the mixture of the pseudo-inputs' posteriors, with batch shape [], which broadcasts.

        KL(q || p) has no closed form and is estimated at a draw.
        """
        return distributions.MixtureOfDiagonalNormals(self.encode(torch.sigmoid(self.logits)))


def gaussian_mixture(
    weights: Float[Tensor, " k"], means: Float[Tensor, "k nlatent"], covariances: Float[Tensor, "k nlatent nlatent"]
) -> MixtureSameFamily:
    """Return the Gaussian mixture with these weights, means and full covariances.

    Latents are sampled from it in place of the prior.
    """
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))

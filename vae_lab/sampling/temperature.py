"""Truncation: densities of latents with scaled deviations, for images that are more typical and less diverse.

A temperature t scales the standard deviation of the noise that a draw is computed from, as in Kingma and Dhariwal 2018,
https://arxiv.org/abs/1807.03039. The same noise gives the same draw at t = 1, nearer to its mode at t < 1:

    normal               mean + t sigma noise
    mixture of normals   the mean of the drawn component + t (its deviation); components are drawn as often as before
    flow                 the latents to which the flow carries t times the noise
    ladder               mean + t sigma noise in each group, given the groups above (Vahdat and Kautz 2020,
                         https://arxiv.org/abs/2007.03898)

For a mixture, the deviation from the mean of the whole mixture would be of no use: that mean lies between the
components, where there are no images. Brock et al. 2019, https://arxiv.org/abs/1809.11096, truncate a normal prior
instead of scaling it, and Karras et al. 2019, https://arxiv.org/abs/1812.04948, scale the deviation of a style from
the mean style.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal

from vae_lab.models.ladder import TopDown
from vae_lab.models.topdown import choose_tempered
from vae_lab.probability.distributions import DiagonalNormal, MixtureOfDiagonalNormals, UncheckedDistribution
from vae_lab.probability.priors import gaussian_mixture
from vae_lab.sampling.flow import Flow
from vae_lab.sampling.subspace import SubspaceMixture


class TemperedLadder(UncheckedDistribution):
    """The prior of a ladder VAE with a temperature in each group: batch [], event [nlatent]."""

    def __init__(self, prior: TopDown, temperature: float) -> None:
        self.prior, self.temperature = prior, temperature
        super().__init__(torch.Size(), prior.event_shape)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws, [sample_shape, nlatent]."""
        path = self.prior.path(choose_tempered(self.temperature), sample_shape)
        return path.z.detach().view(torch.Size(sample_shape) + self.event_shape)


def tempered(density: Distribution, temperature: float) -> Distribution:
    """Return a density of latents whose noise is scaled by `temperature`; the density itself at temperature 1.

    Raises:
        ValueError: if the density is of another class than those of this module's description.

    Example:
        >>> import torch
        >>> from vae_lab.probability.distributions import StandardNormal
        >>> from vae_lab.sampling.temperature import tempered
        >>> tempered(StandardNormal(torch.zeros(2)), 0.5).stddev
        tensor([0.5000, 0.5000])
    """
    if temperature == 1:
        return density
    match density:
        case DiagonalNormal():
            found = DiagonalNormal(density.loc, density.log_sigma + math.log(temperature))
        case MixtureOfDiagonalNormals(components=parts):
            found = MixtureOfDiagonalNormals(DiagonalNormal(parts.loc, parts.log_sigma + math.log(temperature)))
        case MixtureSameFamily(component_distribution=MultivariateNormal() as parts):
            shares = density.mixture_distribution.probs
            found = gaussian_mixture(shares, parts.loc, temperature**2 * parts.covariance_matrix)
        case SubspaceMixture(location=location, directions=directions):
            inner = tempered(density.inner, temperature)
            found = SubspaceMixture(location, directions, inner, temperature**2 * density.rest)
        case Flow():
            found = Flow(density.location, density.scale, density.velocity, temperature * density.temperature)
        case TopDown():
            found = TemperedLadder(density, temperature)
        case _:
            raise ValueError(f"temperature={temperature}: {type(density).__name__} has none; leave temperature at 1.")
    return found

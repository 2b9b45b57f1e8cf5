"""The discrepancy between the latents of a batch and the prior."""

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor


def direction_mmd(z: Float[Tensor, "n nlatent"], prior: Float[Tensor, "m nlatent"]) -> Float[Tensor, ""]:
    """Return an estimate of the squared maximum mean discrepancy of the directions of latents, from those of the prior.

    It is 0 in expectation if the latents of all images together are distributed as the prior up to their lengths, and
    at most 1. The kernel is the inverse multiquadric 2 d / (2 d + |a - b|^2) of Tolstikhin et al. 2018,
    https://arxiv.org/abs/1711.01558, on the sphere of radius sqrt(d), where it is 1 / (2 - cos). The terms of the prior
    alone, which have no gradient, are replaced by their expectation for many latents, 1/2. The estimate is unbiased up
    to that (Gretton et al. 2012, equation 3).

    Args:
        z: a draw from the posterior of each of n images, at least two.
        prior: draws from the prior.

    Example:
        >>> import torch
        >>> from vae_lab.probability.discrepancy import direction_mmd
        >>> prior = torch.randn(1000, 64)
        >>> bool(direction_mmd(torch.randn(1000, 64), prior) < 0.01)
        True
        >>> bool(direction_mmd(torch.randn(1000, 64) + 2, prior) > 0.2)
        True
    """
    z, prior = F.normalize(z, dim=1), F.normalize(prior, dim=1)
    within, across = 1 / (2 - z @ z.T), 1 / (2 - z @ prior.T)
    pairs = len(z) * (len(z) - 1)
    return (within.sum() - within.diagonal().sum()) / pairs - 2 * across.mean() + 0.5

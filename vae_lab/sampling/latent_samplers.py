"""Gaussian mixtures fitted to latents after training."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.probability.priors import gaussian_mixture
from vae_lab.sampling.subspace import SubspaceMixture
from vae_lab.system.randomness import seeded

LARGEST = 256
"""Latents from which on full covariances take too long to fit."""

DIRECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
"""How many principal directions a mixture may have."""


def fitted_density(latents: Float[Tensor, "n nlatent"], ncomponents: int, seed: int) -> Distribution:
    """Return a mixture fitted to latents: with full covariances if they can be known, else in a subspace.

    A full covariance has as many numbers as half its side squared, so each component is to have twice as many latents
    as they are long.
    """
    n, nlatent = latents.shape
    if (nlatent <= LARGEST and n >= 2 * ncomponents * nlatent) or nlatent == 1 or n < 5:
        return fitted_mixture(latents, min(ncomponents, n), seed)
    return fitted_subspace(latents, ncomponents, seed)


def fitted_mixture(latents: Float[Tensor, "n nlatent"], ncomponents: int, seed: int) -> Distribution:
    """Return a mixture of normals with full covariances fitted to latents, as a rule the training posteriors' means.

    Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, call it ex-post density estimation and use 10.

    It stays in double precision on the CPU: in single precision a covariance that is nearly singular has no root.

    Raises:
        ValueError: if there are fewer latents than components.
    """
    from sklearn.mixture import GaussianMixture  # takes half a second

    if not 1 <= ncomponents <= len(latents):
        raise ValueError(f"ncomponents must be from 1 to the {len(latents)} latents to be fitted, not {ncomponents}.")
    fit = GaussianMixture(ncomponents, random_state=seed).fit(latents.double().cpu().numpy())
    parts = (torch.from_numpy(array) for array in (fit.weights_, fit.means_, fit.covariances_))
    return gaussian_mixture(*parts)


def fitted_subspace(latents: Float[Tensor, "n nlatent"], ncomponents: int, seed: int) -> SubspaceMixture:
    """Return a mixture in the latents' principal directions, with one variance along all others.

    How many directions, and whether one normal or `ncomponents`, is what gives every fifth latent the highest density
    when the others are fitted; then all are.
    """
    latents = latents.double().cpu()
    held = torch.arange(len(latents)) % 5 == 4
    tried = dict(subspaces(latents[~held], ncomponents, seed))
    best = max(tried, key=lambda shape: tried[shape].log_prob(latents[held]).mean().item())
    return in_subspace(latents, principal_directions(latents, best[0], seed), best[1], seed)


def subspaces(
    latents: Float64[Tensor, "n nlatent"], ncomponents: int, seed: int
) -> Iterator[tuple[tuple[int, int], SubspaceMixture]]:
    """Yield a fit for each number of directions and of components that there are enough latents for, beside both."""
    n, nlatent = latents.shape
    most = min(n // 2, nlatent - 1)
    directions = principal_directions(latents, min(DIRECTIONS[-1], most), seed)
    for k in DIRECTIONS:
        for count in sorted({1, ncomponents}):
            if k <= most and 2 * k * count <= n:
                yield (k, count), in_subspace(latents, directions[:, :k], count, seed)


def principal_directions(latents: Float64[Tensor, "n nlatent"], k: int, seed: int) -> Float64[Tensor, "nlatent k"]:
    """Return orthonormal directions in which the latents vary most, the first most of all."""
    with seeded("subspace", seed):
        found = torch.svd_lowrank(latents - latents.mean(0), q=min(k + 10, *latents.shape), niter=4)
    return found[2][:, :k]


def in_subspace(
    latents: Float64[Tensor, "n nlatent"], directions: Float64[Tensor, "nlatent k"], ncomponents: int, seed: int
) -> SubspaceMixture:
    """Return the mixture along these directions, and the most likely variance along the others: their mean one."""
    location = latents.mean(0)
    centred = latents - location
    inside = centred @ directions
    nothers = directions.shape[0] - directions.shape[1]
    variance = (centred.square().sum() - inside.square().sum()) / (len(latents) * nothers)
    least = 1e-12 + 1e-6 * centred.square().mean()  # latents that lie in the subspace still have a density
    return SubspaceMixture(location, directions, fitted_mixture(inside, ncomponents, seed), variance.clamp(min=least))

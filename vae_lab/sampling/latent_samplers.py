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
"""Largest number of latents for which full covariances are fitted; more would take too long."""

DIRECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Candidate numbers of principal directions."""


def fitted_density(latents: Float[Tensor, "n nlatent"], ncomponents: int, seed: int) -> Distribution:
    """Return a Gaussian mixture fitted to latents: with full covariances if there are enough, else in a subspace.

    A covariance has about nlatent^2 / 2 parameters, so full covariances need 2 * nlatent latents for each component.
    """
    n, nlatent = latents.shape
    if (nlatent <= LARGEST and n >= 2 * ncomponents * nlatent) or nlatent == 1 or n < 5:
        return fitted_mixture(latents, min(ncomponents, n), seed)
    return fitted_subspace(latents, ncomponents, seed)


def fitted_mixture(latents: Float[Tensor, "n nlatent"], ncomponents: int, seed: int) -> Distribution:
    """Return a Gaussian mixture with full covariances, fitted to latents such as posterior means of images.

    Ghosh et al. 2020, https://arxiv.org/abs/1903.12436, call it ex-post density estimation and use 10 components. The
    mixture is in double precision, because the Cholesky factorization of a nearly singular covariance fails in single
    precision, and on the CPU.

    Raises:
        ValueError: if there are fewer latents than components.
    """
    from sklearn.mixture import GaussianMixture  # importing it takes half a second

    if not 1 <= ncomponents <= len(latents):
        raise ValueError(f"ncomponents={ncomponents} must be from 1 to {len(latents)}, the number of latents.")
    fit = GaussianMixture(ncomponents, random_state=seed).fit(latents.double().cpu().numpy())
    parts = (torch.from_numpy(array) for array in (fit.weights_, fit.means_, fit.covariances_))
    return gaussian_mixture(*parts)


def fitted_subspace(latents: Float[Tensor, "n nlatent"], ncomponents: int, seed: int) -> SubspaceMixture:
    """Return a Gaussian mixture in the latents' principal directions, with one variance along all other directions.

    The number of directions, and whether to use 1 or `ncomponents` components, maximize the log-density of a holdout of
    every fifth latent. The returned mixture is fitted to all latents.
    """
    latents = latents.double().cpu()
    held = torch.arange(len(latents)) % 5 == 4
    tried = dict(subspaces(latents[~held], ncomponents, seed))
    best = max(tried, key=lambda shape: tried[shape].log_prob(latents[held]).mean().item())
    return in_subspace(latents, principal_directions(latents, best[0], seed), best[1], seed)


def subspaces(
    latents: Float64[Tensor, "n nlatent"], ncomponents: int, seed: int
) -> Iterator[tuple[tuple[int, int], SubspaceMixture]]:
    """Yield ((directions, components), fitted mixture) for each pair of counts for which there are enough latents."""
    n, nlatent = latents.shape
    most = min(n // 2, nlatent - 1)
    directions = principal_directions(latents, min(DIRECTIONS[-1], most), seed)
    for k in DIRECTIONS:
        for count in sorted({1, ncomponents}):
            if k <= most and 2 * k * count <= n:
                yield (k, count), in_subspace(latents, directions[:, :k], count, seed)


def principal_directions(latents: Float64[Tensor, "n nlatent"], k: int, seed: int) -> Float64[Tensor, "nlatent k"]:
    """Return the first `k` principal directions of the latents, as orthonormal columns."""
    with seeded("subspace", seed):
        found = torch.svd_lowrank(latents - latents.mean(0), q=min(k + 10, *latents.shape), niter=4)
    return found[2][:, :k]


def in_subspace(
    latents: Float64[Tensor, "n nlatent"], directions: Float64[Tensor, "nlatent k"], ncomponents: int, seed: int
) -> SubspaceMixture:
    """Return a mixture fitted along `directions`, with the maximum-likelihood variance along all other directions."""
    location = latents.mean(0)
    centred = latents - location
    inside = centred @ directions
    nothers = directions.shape[0] - directions.shape[1]
    variance = (centred.square().sum() - inside.square().sum()) / (len(latents) * nothers)
    least = 1e-12 + 1e-6 * centred.square().mean()  # avoids variance 0 if all latents are in the subspace
    return SubspaceMixture(location, directions, fitted_mixture(inside, ncomponents, seed), variance.clamp(min=least))

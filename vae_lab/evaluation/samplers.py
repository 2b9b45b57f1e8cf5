"""Distributions over z fitted after training, to sample from in the prior's place."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.probability.priors import gaussian_mixture


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

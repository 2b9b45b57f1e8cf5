"""Latent path scores: how unusual an image's posterior mean, posterior sigma and reconstruction error are.

The likelihood of an image under a VAE depends on the posterior mean, the posterior sigma and the reconstruction. In the
likelihood, two abnormal values can cancel. So these scores fit a density over the three statistics to normal images:
Huang, He and Lui 2024, https://arxiv.org/abs/2401.04933.
"""

import math
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from vae_lab.detection.scores.anomaly import Batches, Score, central_inference, require_fitted, squared_error
from vae_lab.errors import require_count
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.priors import gaussian_mixture
from vae_lab.probability.scores import Images, Nats
from vae_lab.sampling.latent_samplers import fitted_mixture

NSTATISTICS = 3

Statistics = Float64[Tensor, "batch nstatistics"]


@torch.no_grad()
def path_statistics(model: LatentModel, images: Images) -> Statistics:
    """Return log |posterior mean|, log |posterior sigma| and log |image - reconstruction| of each image.

    The logarithm reduces the skewness of these positive values. In a ladder, each group is conditioned on the means of
    the groups above it.
    """
    inference = central_inference(model, images)
    norms = [inference.posterior.mean.norm(dim=-1), inference.posterior.stddev.norm(dim=-1)]
    error = squared_error(inference, images).sqrt()
    return torch.stack([*norms, error], 1).double().clamp(min=1e-6).log()


def all_path_statistics(model: LatentModel, batches: Batches) -> Float64[Tensor, "n nstatistics"]:
    """Return the path statistics of all normal images, one row per image."""
    return torch.cat([path_statistics(model, images) for images in batches])


def nan_buffer(*shape: int) -> Float64[Tensor, "..."]:
    """Return a float64 tensor of NaN, the initial value of state that `fit` sets."""
    return torch.full(shape, math.nan, dtype=torch.float64)


class LatentPath(Score):
    """Minus the log density of an image's path statistics under a Gaussian mixture fitted to normal images.

    Args:
        ncomponents: components of the Gaussian mixture.
        seed: seed of the mixture's initialisation.
    """

    location: Float64[Tensor, " nstatistics"]
    scale: Float64[Tensor, " nstatistics"]
    weights: Float64[Tensor, " ncomponents"]
    means: Float64[Tensor, "ncomponents nstatistics"]
    covariances: Float64[Tensor, "ncomponents nstatistics nstatistics"]

    def __init__(self, ncomponents: int, seed: int) -> None:
        super().__init__()
        require_count("score.ncomponents", ncomponents)
        self.ncomponents = ncomponents
        self.seed = seed
        self.register_buffer("location", nan_buffer(NSTATISTICS))
        self.register_buffer("scale", nan_buffer(NSTATISTICS))
        self.register_buffer("weights", nan_buffer(ncomponents))
        self.register_buffer("means", nan_buffer(ncomponents, NSTATISTICS))
        self.register_buffer("covariances", nan_buffer(ncomponents, NSTATISTICS, NSTATISTICS))

    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Fit the Gaussian mixture to the standardised path statistics of normal images."""
        found = all_path_statistics(model, batches)
        self.location, self.scale = found.mean(0), found.std(0).clamp(min=1e-6)
        mixture: Any = fitted_mixture((found - self.location) / self.scale, self.ncomponents, self.seed)
        self.weights = mixture.mixture_distribution.probs
        self.means = mixture.component_distribution.loc
        self.covariances = mixture.component_distribution.covariance_matrix

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return minus the log density of each image's standardised path statistics."""
        require_fitted(self.means, "latent_path")
        mixture = gaussian_mixture(self.weights, self.means, self.covariances)
        standard = (path_statistics(model, images) - self.location) / self.scale
        return -mixture.log_prob(standard).to(images)


class LatentCopula(Score):
    """The COPOD outlier score: minus the log tail probability of an image's path statistics among normal images.

    Li et al. 2020, https://arxiv.org/abs/2009.09463. The score is the largest of three sums over statistics of -log
    tail probability: of the left tails, of the right tails, and of the tail to which each statistic is skewed. In the
    paper the image is one of the n samples. Here the n samples are normal images, and the tail probability is
    (1 + number beyond) / (1 + n), so that a score depends on no other new image.

    Args:
        nquantiles: number n of quantiles that represent the normal images.
    """

    quantiles: Float64[Tensor, "nquantiles nstatistics"]
    skewness: Float64[Tensor, " nstatistics"]

    def __init__(self, nquantiles: int) -> None:
        super().__init__()
        require_count("score.nquantiles", nquantiles)
        self.nquantiles = nquantiles
        self.register_buffer("quantiles", nan_buffer(nquantiles, NSTATISTICS))
        self.register_buffer("skewness", nan_buffer(NSTATISTICS))

    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Compute the quantiles and the skewness of each path statistic over normal images."""
        found = all_path_statistics(model, batches)
        middle = (torch.arange(len(self.quantiles)).to(found) + 0.5) / len(self.quantiles)
        self.quantiles = found.quantile(middle, 0)
        centred = found - found.mean(0)
        self.skewness = centred.pow(3).mean(0) / centred.square().mean(0).clamp(min=1e-12).pow(1.5)

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return for each image the largest of the three sums of -log tail probabilities."""
        require_fitted(self.quantiles, "latent_copula")
        statistics = path_statistics(model, images)
        left = -tail(statistics, self.quantiles).log()
        right = -tail(-statistics, -self.quantiles).log()
        skewed = torch.where(self.skewness < 0, left, right)
        return torch.stack([left.sum(1), right.sum(1), skewed.sum(1)]).amax(0).to(images)


def tail(values: Statistics, normal: Float64[Tensor, "n nstatistics"]) -> Statistics:
    """Return the left tail probability of each value, (1 + number of normal values at most as large) / (1 + n)."""
    below = (normal[None] <= values[:, None]).sum(1)
    return (1 + below).to(values) / (1 + len(normal))

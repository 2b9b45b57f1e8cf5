"""Importance-sampling estimates of -log p(x), per image and in nats."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.errors import require_count
from vae_lab.probability.importance import draw

if TYPE_CHECKING:
    from vae_lab.probability.latent_model import LatentModel

Images = Float[Tensor, "batch channels height width"]
Nats = Float[Tensor, " batch"]


class Estimate(NamedTuple):
    """Importance-sampling estimates of -log p(x), one per image, with their effective sample sizes.

    Attributes:
        nll: estimate of -log p(x) in nats; in expectation an upper bound, which is tighter for more even weights.
        effective: effective sample size, (sum w)^2 / sum w^2, from 1 to the number of draws. Near 1, one draw has
            nearly all the weight, and `nll` is an unreliable estimate.
    """

    nll: Nats
    effective: Float[Tensor, " batch"]


@torch.no_grad()
def importance_estimate(
    model: "LatentModel",
    images: Images,
    nsamples: int,
    chunk: int,
    noise: Float[Tensor, "nsamples 1 nlatent"] | None = None,
) -> Estimate:
    """Return the IWAE estimate of -log p(x), -log 1/k sum w_i with k = `nsamples`, and the effective sample size.

    Burda, Grosse and Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, report k = 5,000. Each image is encoded
    once, and at most `chunk` latents are decoded at a time. If `noise` is given, all images share it, so that an
    image's estimate does not depend on other images.
    """
    require_count("nsamples", nsamples)
    require_count("chunk", chunk)
    parts = [
        _estimate(one, part, nsamples, max(1, chunk // len(part)), noise) for one, part in model.split(images, chunk)
    ]
    return Estimate(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _estimate(
    model: "LatentModel", images: Images, nsamples: int, at_once: int, noise: Float[Tensor, "nsamples 1 n"] | None
) -> Estimate:
    posterior = model.posterior(images)
    log_sum = log_square_sum = images.new_full((len(images),), -math.inf)
    for start in range(0, nsamples, at_once):
        at = slice(start, min(start + at_once, nsamples))
        draws = draw(model, posterior, images, at.stop - start, None if noise is None else noise[at])
        log_weights = draws.log_weights(draws.inference.posterior.log_prob(draws.inference.z))
        log_sum = torch.logaddexp(log_sum, log_weights.logsumexp(0))
        log_square_sum = torch.logaddexp(log_square_sum, (2 * log_weights).logsumexp(0))
    return Estimate(math.log(nsamples) - log_sum, (2 * log_sum - log_square_sum).exp())


def bits_per_dimension(nats: Float[Tensor, "*shape"], ndimensions: int) -> Float[Tensor, "*shape"]:
    """Return nats per image converted to bits per dimension, for discrete likelihoods (`nlevels` > 0) only."""
    return nats / (ndimensions * math.log(2))

"""Importance weights of several latents per image, for estimates of p(x).

Latents z_1 … z_k drawn from q(z | x) have the weights w_i = p(x | z_i) p(z_i) / q(z_i | x). Their mean is an unbiased
estimate of p(x), so by Jensen's inequality log 1/k sum w_i is a lower bound on log p(x) in expectation. It is the ELBO
at k = 1 and does not decrease with k (Burda, Grosse and Salakhutdinov 2016, theorem 1,
https://arxiv.org/abs/1509.00519).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.system.randomness import counter_seed

if TYPE_CHECKING:
    from vae_lab.probability.latent_model import Inference, LatentModel


class Draws(NamedTuple):
    """Several latents drawn per image, with log p(x | z) and log p(z) in nats; the first dimension counts the draws."""

    inference: "Inference"
    log_likelihood: Float[Tensor, "nsamples batch"]
    log_prior: Float[Tensor, "nsamples batch"]

    def log_weights(self, log_posterior: Float[Tensor, "nsamples batch"]) -> Float[Tensor, "nsamples batch"]:
        """Return log p(x | z) + log p(z) - log q(z | x) of each draw, its log importance weight."""
        return self.log_likelihood + self.log_prior - log_posterior


def draw(
    model: "LatentModel",
    posterior: Distribution,
    image: Float[Tensor, "batch channels height width"],
    nsamples: int,
    noise: Float[Tensor, "nsamples 1 nlatent"] | None = None,
) -> Draws:
    """Return `nsamples` latents drawn from each image's posterior, with log p(x | z) and log p(z).

    All latents are decoded in one batch.

    If `noise` is given, every image uses it in place of fresh noise.
    """
    inference = model.infer(posterior, (nsamples,), noise)
    repeated = image.expand(nsamples, *image.shape).flatten(0, 1)
    log_likelihood = inference.generative.log_prob(repeated).unflatten(0, (nsamples, -1))
    return Draws(inference, log_likelihood, inference.prior.log_prob(inference.z))


def common_noise(
    model: "LatentModel", images: Float[Tensor, "batch channels height width"], nsamples: int, seed: int
) -> Float[Tensor, "nsamples 1 nlatent"]:
    """Return standard normal noise that all images share, equal on every device and determined by the seed."""
    generator = torch.Generator().manual_seed(counter_seed("score", seed))
    return torch.randn(nsamples, 1, model.nlatent, generator=generator).to(images)

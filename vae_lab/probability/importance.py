"""Importance weights of several latents per image.

The weights of latents z_1 … z_k drawn from q(z | x) are w_i = p(x | z_i) p(z_i) / q(z_i | x). Their mean is p(x) in
expectation, so by Jensen's inequality log 1/k sum w_i is a lower bound on log p(x) in expectation: the ELBO at k = 1,
and never looser for larger k (Burda, Grosse and Salakhutdinov 2016, theorem 1, https://arxiv.org/abs/1509.00519).
"""

from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from vae_lab.probability.latent_model import Inference, LatentModel


class Draws(NamedTuple):
    """Latents and the three logarithms that a model gives them, in nats; first dimension: the draws."""

    inference: "Inference"
    log_likelihood: Float[Tensor, "nsamples batch"]
    log_prior: Float[Tensor, "nsamples batch"]

    def log_weights(self, log_posterior: Float[Tensor, "nsamples batch"]) -> Float[Tensor, "nsamples batch"]:
        """Return log w of each draw."""
        return self.log_likelihood + self.log_prior - log_posterior


def draw(
    model: "LatentModel",
    posterior: Distribution,
    image: Float[Tensor, "batch channels height width"],
    nsamples: int,
    noise: Float[Tensor, "nsamples 1 nlatent"] | None = None,
) -> Draws:
    """Return `nsamples` latents of each image's posterior with log p(x | z) and log p(z); decodes them all at once.

    They are made of `noise`, the same for every image, if it is given.
    """
    inference = model.infer(posterior, (nsamples,), noise)
    repeated = image.expand(nsamples, *image.shape).flatten(0, 1)
    log_likelihood = inference.generative.log_prob(repeated).unflatten(0, (nsamples, -1))
    return Draws(inference, log_likelihood, inference.prior.log_prob(inference.z))

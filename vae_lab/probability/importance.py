"""Several latents for each image, and how much each of them explains.

The weights of latents z_1 … z_k drawn from q(z | x) are w_i = p(x | z_i) p(z_i) / q(z_i | x). Their mean is p(x) in
expectation, so by Jensen's inequality log 1/k sum w_i is a lower bound on log p(x) in expectation: the ELBO at k = 1,
and never looser for larger k (Burda, Grosse and Salakhutdinov 2016, theorem 1, https://arxiv.org/abs/1509.00519).
"""

from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from vae_lab.models.vae import VAE


class Draws(NamedTuple):
    """Latents and the two logarithms that the generative side gives them, in nats; first dimension: the draws."""

    z: Float[Tensor, "nsamples batch nlatent"]
    log_likelihood: Float[Tensor, "nsamples batch"]
    log_prior: Float[Tensor, "nsamples batch"]


def draw(
    model: "VAE",
    posterior: Distribution,
    prior: Distribution,
    image: Float[Tensor, "batch channels height width"],
    nsamples: int,
) -> Draws:
    """Return `nsamples` latents of each image's posterior with log p(x | z) and log p(z); decodes them all at once."""
    z = posterior.rsample((nsamples,))
    repeated = image.expand(nsamples, *image.shape).flatten(0, 1)
    log_likelihood = model.generative(z.flatten(0, 1)).log_prob(repeated).unflatten(0, (nsamples, -1))
    return Draws(z, log_likelihood, prior.log_prob(z))

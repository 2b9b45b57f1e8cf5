"""What training minimises, per image and in nats."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import Float
from torch import Tensor

from vae_lab.probability.distributions import kl

if TYPE_CHECKING:
    from vae_lab.data.sample import Sample
    from vae_lab.models.vae import VAE, Inference


class Terms(NamedTuple):
    """The parts of a bound for each image, in nats; `distortion + rate` is the negative ELBO whatever was trained.

    Attributes:
        loss: what is minimised.
        distortion: -log p(x | z) for z drawn from the posterior.
        rate: KL(q(z | x) || p(z)).
    """

    loss: Float[Tensor, " batch"]
    distortion: Float[Tensor, " batch"]
    rate: Float[Tensor, " batch"]


class Objective(ABC):
    """A bound or loss: a plain object called with the model, the batch and the number of batches seen."""

    @abstractmethod
    def __call__(self, model: "VAE", batch: "Sample", step: int) -> Terms:
        """Return the terms of each image of the batch."""


def elbo_terms(inference: "Inference", image: Float[Tensor, "batch channels height width"], beta: float = 1.0) -> Terms:
    """Return the terms of the evidence lower bound at one posterior sample, the rate weighed by `beta` in the loss.

    Kingma and Welling 2014, equation 3, https://arxiv.org/abs/1312.6114; beta as in Higgins et al. 2017.
    """
    distortion = -inference.generative.log_prob(image)
    rate = kl(inference.posterior, inference.prior, inference.z)
    return Terms(distortion + beta * rate, distortion, rate)


class ELBO(Objective):
    """Distortion plus `beta` times rate; at beta 1 the negative evidence lower bound."""

    def __init__(self, beta: float) -> None:
        if not 0 <= beta < float("inf"):
            raise ValueError(f"objective.beta must be 0 or a positive number, not {beta}.")
        self.beta = beta

    def __call__(self, model: "VAE", batch: "Sample", step: int) -> Terms:
        """Return the terms of each image of the batch."""
        return elbo_terms(model(batch.image), batch.image, self.beta)

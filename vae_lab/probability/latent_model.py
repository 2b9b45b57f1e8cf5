"""`LatentModel`, the base class of all models: a prior, a posterior and a generative density."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lab.data.pictures import Preparation
from vae_lab.probability.distributions import DiagonalNormal, StandardNormal, kl
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.system.printing import PrintsArguments


class Inference(NamedTuple):
    """The latents z of one forward pass, with the distributions q(z | x), p(x | z) and p(z).

    Attributes:
        posterior: q(z | x), from which z was drawn.
        z: the latents, [*shape, batch, nlatent], where `shape` is the shape of the draws.
        generative: p(x | z), with draws and images flattened into one batch dimension.
        prior: p(z).
    """

    posterior: DiagonalNormal
    z: Float[Tensor, "*shape batch nlatent"]
    generative: Distribution
    prior: Distribution


class LatentModel(PrintsArguments, nn.Module, ABC):
    """Base class of latent-variable models of images, with a prior, a posterior and a generative density.

    Attributes:
        nlatent: total number of latents of an image.
        channels: image channels.
        image_size: image height and width in pixels.
        nclasses: number of classes that the model is conditional on; 0 means unconditional.
        likelihood: turns the decoder's output into a density.
        encoder: the network for images.
        decoder: the network for latents.
        prior: returns p(z); see `vae_lab.probability.priors.Prior.forward`.
        preparation: how pictures are prepared for the model; `load_model` sets that of the run.
    """

    nclasses: int = 0
    preparation: Preparation = Preparation()
    nlatent: int
    channels: int
    image_size: int
    likelihood: Likelihood
    encoder: nn.Module
    decoder: nn.Module
    prior: Callable[..., Distribution]

    @abstractmethod
    def posterior(self, image: Float[Tensor, "batch channels height width"]) -> Distribution:
        """Return q(z | x) of each image."""

    @abstractmethod
    def generative(self, z: Float[Tensor, "batch nlatent"]) -> Distribution:
        """Return p(x | z) of each latent vector."""

    @abstractmethod
    def infer(
        self,
        posterior: Distribution,
        shape: tuple[int, ...] = (),
        noise: Float[Tensor, "*shape 1 nlatent"] | None = None,
    ) -> Inference:
        """Return latents drawn from a posterior, with the distributions q(z | x), p(x | z) and p(z).

        Args:
            posterior: q(z | x) of the images.
            shape: shape of the draws for each image.
            noise: standard normal noise that all images share, in place of fresh noise; zeros give the means. Shared
                noise makes an image's result independent of the other images in the batch.
        """

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Inference:
        """Return one latent vector drawn for each image, with the distributions q(z | x), p(x | z) and p(z)."""
        return self.infer(self.posterior(image))

    def given(self, label: Int64[Tensor, " batch"]) -> "LatentModel":
        """Return the model conditioned on a label for each image if it is conditional, else the model itself.

        The conditioned model shares the weights. It takes as many images as there are labels, and latents in the order
        of `z.flatten(0, -2)`: whole batches, with the labels repeated for each.

        Raises:
            ValueError: if a label is out of range.
        """
        return self

    def split(
        self, image: Float[Tensor, "batch channels height width"], size: int
    ) -> Iterable[tuple["LatentModel", Float[Tensor, "part channels height width"]]]:
        """Return pairs (model conditioned on the labels of the images, batch of at most `size` images)."""
        return [(self, part) for part in image.split(size)]


def latent_rates(inference: Inference) -> Float[Tensor, "batch nlatent"]:
    """Return KL(q(z_i | x) || p(z_i)) of each latent z_i; p(z_i) is N(0, 1) if the prior is not factorized."""
    q, p = inference.posterior.each_latent(), inference.prior
    if not isinstance(p, DiagonalNormal):
        p = StandardNormal(torch.zeros_like(inference.posterior.mean[0]))
    return kl(q, p.each_latent(), q.mean)

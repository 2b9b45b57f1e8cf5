"""`LatentModel`: the base class of models, which return a prior, a posterior and a generative density."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.system.printing import PrintsArguments


class Inference(NamedTuple):
    """One pass through the model: the latents drawn on the way and the three distributions that speak of them.

    Attributes:
        posterior: what z was drawn from; its log_prob of z is log q(z | x).
        z: the latents, with the shape of the draw before the batch.
        generative: p(x | z), with one batch dimension in which all draws of the batch lie flat.
        prior: its log_prob of z is log p(z).
    """

    posterior: DiagonalNormal
    z: Float[Tensor, "*shape batch nlatent"]
    generative: Distribution
    prior: Distribution


class LatentModel(PrintsArguments, nn.Module, ABC):
    """The role: a prior, a posterior and a generative density over images.

    Attributes:
        nlatent: latents of an image, in all.
        channels: image channels.
        image_size: image height and width in pixels.
        nclasses: classes that posterior and generative density are conditional on; 0 is none.
        likelihood: makes a density of the decoder's output.
        encoder: the network for images.
        decoder: the network for latents.
        prior: returns p(z); see `vae_lab.probability.priors.Prior.forward`.
    """

    nclasses: int = 0
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
        """Return the three distributions at `shape` latents drawn for each image, which is encoded already.

        Args:
            posterior: of the images.
            shape: of the draws of one image.
            noise: standard normal numbers that all images share, in place of fresh ones; zeros give the means. With it
                what comes out for an image does not depend on the images beside it.
        """

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Inference:
        """Return the three distributions at one latent drawn for each image."""
        return self.infer(self.posterior(image))

    def given(self, label: Int64[Tensor, " batch"]) -> "LatentModel":
        """Return the model of images of these classes; itself if it knows no classes.

        What comes back shares the weights. It takes as many images as there are labels, and latents in the order of
        `z.flatten(0, -2)`: whole batches, one after the other, with the labels repeated for each.

        Raises:
            ValueError: if there is no such class.
        """
        return self

    def split(
        self, image: Float[Tensor, "batch channels height width"], size: int
    ) -> Iterable[tuple["LatentModel", Float[Tensor, "part channels height width"]]]:
        """Return the images in parts of at most `size`, each beside the model of its classes."""
        return [(self, part) for part in image.split(size)]

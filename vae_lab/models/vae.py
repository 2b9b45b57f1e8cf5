"""The variational autoencoder as three distributions.

shape of one pass, nlatent = n:

    image                     [B, C, H, W]
    encoder(image)            [B, 2n]         mean and 2 log sigma
    posterior(image)          q(z | x)        batch [B], event [n]
    z                         [B, n]
    decoder(z)                [B, P*C, H, W]  P parameters per channel, as the likelihood asks
    generative(z)             p(x | z)        batch [B], event [C, H, W]
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lab.errors import require_counts
from vae_lab.probability.distributions import DiagonalNormal, bounded_log_sigma, full_precision
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.probability.priors import Prior


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


class LatentModel(nn.Module, ABC):
    """The role: a prior, a posterior and a generative density over images.

    Attributes:
        nlatent: latents of an image, in all.
        channels: image channels.
        image_size: image height and width in pixels.
        likelihood: makes a density of the decoder's output.
        encoder: the network for images.
        decoder: the network for latents.
        prior: returns p(z); see `vae_lab.probability.priors.Prior.forward`.
    """

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


class VAE(LatentModel):
    """Two networks, with one vector of latents between them.

    Args:
        encoder: called with (nin, image_size, nout), returns the network for images.
        decoder: called with (nin, image_size, nout), returns the network for latents.
        likelihood: makes a density of the decoder's output.
        prior: called with nlatent.
        nlatent: length of the latent vector.
        channels: image channels.
        image_size: image height and width in pixels.
    """

    def __init__(
        self,
        *,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., nn.Module],
        likelihood: Likelihood,
        prior: Callable[..., Prior],
        nlatent: int,
        channels: int,
        image_size: int,
    ) -> None:
        super().__init__()
        require_counts(model__nlatent=nlatent, data__image_size=image_size)
        self.nlatent = nlatent
        self.channels = channels
        self.image_size = image_size
        self.encoder = encoder(nin=channels, image_size=image_size, nout=2 * nlatent)
        self.decoder = decoder(nin=nlatent, image_size=image_size, nout=channels * likelihood.params_per_channel)
        self.likelihood = likelihood
        self.prior = prior(nlatent=nlatent)
        self.prior.connect(self.posterior)

    def posterior(self, image: Float[Tensor, "batch channels height width"]) -> DiagonalNormal:
        """Return q(z | x) of each image."""
        mean, log_variance = full_precision(self.encoder(image)).chunk(2, dim=1)
        return DiagonalNormal(mean, bounded_log_sigma(0.5 * log_variance))

    def generative(self, z: Float[Tensor, "batch nlatent"]) -> Distribution:
        """Return p(x | z) of each latent vector."""
        return self.likelihood(self.decoder(z))

    def infer(
        self,
        posterior: DiagonalNormal,
        shape: tuple[int, ...] = (),
        noise: Float[Tensor, "*shape 1 nlatent"] | None = None,
    ) -> Inference:
        """Return the three distributions at `shape` latents drawn for each image, which is encoded already."""
        assert noise is None or noise.shape == (*shape, 1, self.nlatent)
        z = posterior.rsample(shape) if noise is None else posterior.mean + posterior.stddev * noise
        return Inference(posterior, z, self.generative(z.flatten(0, -2)), self.prior(posterior))

"""The variational autoencoder: an encoder for q(z | x), a decoder for p(x | z), and a prior p(z).

Shapes of one forward pass with nlatent = n:

    image                     [B, C, H, W]
    encoder(image)            [B, 2n]         mean and 2 log sigma
    posterior(image)          q(z | x)        batch [B], event [n]
    z                         [B, n]
    decoder(z)                [B, P*C, H, W]  P = likelihood.params_per_channel
    generative(z)             p(x | z)        batch [B], event [C, H, W]

A conditional VAE, nclasses = c > 0, has the same interface after `given(label)`: q(z | x, y), p(x | z, y) and p(z), the
labelled part of Kingma et al. 2014, https://arxiv.org/abs/1406.5298. The one-hot class is concatenated to the inputs of
both networks: [B, C + c, H, W], with one constant plane per class, and [B, n + c].
"""

import copy
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int64
from torch import SymInt, Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from vae_lab.errors import require_count
from vae_lab.probability.distributions import DiagonalNormal, bounded_log_sigma, full_precision
from vae_lab.probability.latent_model import Inference, LatentModel
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.probability.priors import Prior, VampPrior


class VAE(LatentModel):
    """A VAE with one vector of latents.

    Args:
        encoder: called with (nin, image_size, nout), returns the network for images. If its output is a set of feature
            maps, its attribute `cells` is the number of latents per map.
        decoder: called with (nin, image_size, nout), returns the network for latents.
        likelihood: turns the decoder's output into a density.
        prior: called with nlatent.
        nlatent: length of the latent vector.
        channels: image channels.
        image_size: image height and width in pixels.
        nclasses: number of classes that posterior and generative density are conditional on; 0 means unconditional.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from vae_lab.models.mlp import MLPDecoder, MLPEncoder
        >>> from vae_lab.models.vae import VAE
        >>> from vae_lab.probability.likelihoods import Bernoulli
        >>> from vae_lab.probability.priors import StandardNormal
        >>> encoder = partial(MLPEncoder, width=32, nblocks=1)
        >>> decoder = partial(MLPDecoder, width=32, nblocks=1)
        >>> parts = {"encoder": encoder, "decoder": decoder, "likelihood": Bernoulli(), "prior": StandardNormal}
        >>> model = VAE(**parts, nlatent=2, channels=1, image_size=8)
        >>> inference = model(torch.rand(5, 1, 8, 8))
        >>> inference.posterior
        DiagonalNormal(batch_shape=[5], event_shape=[2])
        >>> inference.generative
        BinaryPixels(batch_shape=[5], event_shape=[1, 8, 8])
        >>> inference.prior
        StandardNormal(batch_shape=[], event_shape=[2])
    """

    classes: Int64[Tensor, "batch nclasses"] | None = None

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
        nclasses: int = 0,
    ) -> None:
        super().__init__()
        require_count("model.nlatent", nlatent)
        require_count("data.image_size", image_size)
        require_count("model.nclasses", nclasses, 0, "; 0 is unconditional")
        self.nlatent = nlatent
        self.channels = channels
        self.image_size = image_size
        self.nclasses = nclasses
        self.encoder = encoder(nin=channels + nclasses, image_size=image_size, nout=2 * nlatent)
        self.cells: int = getattr(self.encoder, "cells", 1)
        nin = nlatent + nclasses * self.cells
        self.decoder = decoder(nin=nin, image_size=image_size, nout=channels * likelihood.params_per_channel)
        self.likelihood = likelihood
        self.prior = prior(nlatent=nlatent)
        if nclasses and isinstance(self.prior, VampPrior):
            raise ValueError(
                "prior=vamp has no class for its pseudo-inputs, and the model is conditional; choose"
                " prior=standard_normal, or model.nclasses=0."
            )
        self.prior.connect(self.posterior)

    def given(self, label: Int64[Tensor, " batch"]) -> "VAE":
        """Return a view of the model conditioned on a label per image; the model itself if it is unconditional."""
        if not self.nclasses:
            return self
        view = copy.copy(self)  # a new module with the same parameters
        try:
            view.classes = one_hot(label, self.nclasses)
        except RuntimeError as error:  # one_hot checks the range
            raise ValueError(
                f"labels range from {label.min()} to {label.max()}, but must be from 0 to {self.nclasses - 1}, the"
                " model's classes."
            ) from error
        return view

    def split(
        self, image: Float[Tensor, "batch channels height width"], size: int
    ) -> Iterable[tuple[LatentModel, Float[Tensor, "part channels height width"]]]:
        """Return pairs (model conditioned on the labels, images) for parts of at most `size` images."""
        if not self.nclasses:
            return super().split(image, size)
        labels = self.classes_of(len(image)).argmax(1)
        return [(self.given(label), part) for label, part in zip(labels.split(size), image.split(size), strict=True)]

    def classes_of(self, n: int | SymInt) -> Int64[Tensor, "n nclasses"]:
        """Return the one-hot labels of `n` images or latents, repeated if `n` is a multiple of the number of labels.

        Raises:
            ValueError: if the model has no labels, or `n` is not a multiple of their number.
        """
        if self.classes is None:
            raise ValueError(
                f"the model is conditional on {self.nclasses} classes; call model.given(label) with the label of each"
                " image."
            )
        if torch.compiler.is_exporting():  # the check would exclude batches of one image
            return self.classes
        nlabels = len(self.classes)
        if n % nlabels:
            raise ValueError(f"{nlabels} labels were given for {n} images or latents; give a label for each image.")
        return self.classes.repeat(n // nlabels, 1)

    def posterior(self, image: Float[Tensor, "batch channels height width"]) -> DiagonalNormal:
        """Return q(z | x) of each image."""
        if self.nclasses:
            classes = self.classes_of(image.shape[0]).to(image)
            image = torch.cat([image, classes[:, :, None, None].expand(-1, -1, *image.shape[2:])], 1)
        mean, log_variance = full_precision(self.encoder(image)).chunk(2, dim=1)
        return DiagonalNormal(mean, bounded_log_sigma(0.5 * log_variance))

    def generative(self, z: Float[Tensor, "batch nlatent"]) -> Distribution:
        """Return p(x | z) for each latent vector."""
        return self.likelihood(self.decode(z))

    def decode(self, z: Float[Tensor, "batch nlatent"]) -> Float[Tensor, "batch params height width"]:
        """Return the decoder's output, the likelihood's parameters, for each latent vector."""
        if self.nclasses:
            classes = self.classes_of(z.shape[0]).to(z)
            z = torch.cat([z, classes.repeat_interleave(self.cells, 1)], 1)
        return self.decoder(z)

    def infer(
        self,
        posterior: DiagonalNormal,
        shape: tuple[int, ...] = (),
        noise: Float[Tensor, "*shape 1 nlatent"] | None = None,
    ) -> Inference:
        """Return latents drawn from the posterior, and the distributions q(z | x), p(x | z) and p(z)."""
        assert noise is None or noise.shape == (*shape, 1, self.nlatent)
        z = posterior.rsample(shape) if noise is None else posterior.mean + posterior.stddev * noise
        return Inference(posterior, z, self.generative(z.flatten(0, -2)), self.prior(posterior))

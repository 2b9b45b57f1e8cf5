"""A ladder VAE: a hierarchy of groups of latents, each drawn given the groups above.

    p(z) = p(z_1) p(z_2 | z_1) …        q(z | x) = q(z_1 | x) q(z_2 | z_1, x) …

Prior and posterior share one top-down network, and the posterior also uses the encoder's features: Sønderby et al.
2016, https://arxiv.org/abs/1602.02282.

Each group is normal given the groups above. For one draw of all groups, the conditional densities form one diagonal
normal over all latents, with parameters that depend on the draw. `infer` returns this normal for prior and posterior.
Their KL is the sum over groups of KL(q(z_i | z_<i, x) || p(z_i | z_<i)), an estimate of the rate with less noise than a
difference of log-densities.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lab.models.topdown import (
    Choice,
    Features,
    Path,
    TopDownDecoder,
    choose_from_noise,
    choose_given,
    choose_mean,
    choose_sample,
)
from vae_lab.probability.distributions import DiagonalNormal, UncheckedDistribution
from vae_lab.probability.latent_model import Inference, LatentModel
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.probability.priors import Prior, StandardNormal


class TopDown(UncheckedDistribution):
    """The distribution p(z) or q(z | x) of a ladder VAE: batch [] or [B], event [nlatent].

    Args:
        decoder: the top-down network.
        seen: the encoder's features of B images for the posterior, or None for the prior.
    """

    has_rsample = True

    def __init__(self, decoder: TopDownDecoder, seen: Features | None) -> None:
        self.decoder = decoder
        self.seen = seen
        batch = torch.Size() if seen is None else seen[-1].shape[:1]
        super().__init__(batch, torch.Size([sum(decoder.sizes)]))

    def path(self, choose: Choice, shape: tuple[int, ...]) -> Path:
        """Return one top-down pass for `shape` draws per batch entry, all flattened into one batch dimension."""
        total = torch.Size(shape) + self.batch_shape
        seen = None if self.seen is None else [f.expand(*shape, *f.shape).flatten(0, len(shape)) for f in self.seen]
        return self.decoder(seen, choose, math.prod(total))  # numel() is a constant to torch.export

    @property
    def mean(self) -> Tensor:
        """The conditional mean of each group given the means above it; in general not the mean of the distribution."""
        return self.path(choose_mean, ()).z.view(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return differentiable draws of the latents, [sample_shape, ..., nlatent]."""
        return self.path(choose_sample, sample_shape).z.view(
            torch.Size(sample_shape) + self.batch_shape + self.event_shape
        )

    def log_prob(self, value: Float[Tensor, "*shape nlatent"]) -> Float[Tensor, "*shape"]:
        """Return the log-density of latents in nats; latents must have the batch shape, which is not broadcast."""
        before = value.shape[: value.dim() - 1 - len(self.batch_shape)]
        latents = value.reshape(-1, value.shape[-1])
        path = self.path(choose_given(latents, self.decoder.sizes), before)
        density = path.prior if path.posterior is None else path.posterior
        return density.log_prob(path.z).view(value.shape[:-1])


class Ladder(LatentModel):
    """A ladder VAE: the top group of latents is N(0, I), and every other one has a learned density given those above.

    Args:
        encoder: called with (nin, image_size), returns a network from images to features, the top group's last.
        decoder: called with (image_size, nout), returns the top-down network.
        likelihood: turns the decoder's output into a density.
        prior: must be the standard normal, which is the prior of the topmost group.
        channels: image channels.
        image_size: image height and width in pixels.
        nclasses: must be 0.
    """

    decoder: TopDownDecoder

    def __init__(
        self,
        *,
        encoder: Callable[..., nn.Module],
        decoder: Callable[..., TopDownDecoder],
        likelihood: Likelihood,
        prior: Callable[..., Prior],
        channels: int,
        image_size: int,
        nclasses: int = 0,
    ) -> None:
        super().__init__()
        if nclasses:
            raise ValueError(
                f"model.nclasses={nclasses}: a ladder cannot be conditional; choose model=conv, mlp or resnet, or"
                " model.nclasses=0."
            )
        if not isinstance(prior(nlatent=1), StandardNormal):
            raise ValueError("model=ladder has a learned prior already; choose prior=standard_normal.")
        self.channels = channels
        self.image_size = image_size
        self.likelihood = likelihood
        self.encoder = encoder(nin=channels, image_size=image_size)
        self.decoder = decoder(image_size=image_size, nout=channels * likelihood.params_per_channel)
        self.nlatent = sum(self.decoder.sizes)

    def posterior(self, image: Float[Tensor, "batch channels height width"]) -> TopDown:
        """Return q(z | x) of each image."""
        return TopDown(self.decoder, self.encoder(image))

    def prior(self, posterior: Distribution | None = None) -> TopDown:
        """Return p(z)."""
        return TopDown(self.decoder, None)

    def generative(self, z: Float[Tensor, "batch nlatent"]) -> Distribution:
        """Return p(x | z) for the concatenated latents of all groups."""
        return self.likelihood(self.decoder(None, choose_given(z, self.decoder.sizes), z.shape[0]).output)

    def infer(
        self, posterior: TopDown, shape: tuple[int, ...] = (), noise: Float[Tensor, "*shape 1 nlatent"] | None = None
    ) -> Inference:
        """Return the latents, q(z | x), p(x | z) and p(z) of one top-down pass for each draw and image."""
        assert noise is None or noise.shape == (*shape, 1, self.nlatent)
        batch = torch.Size(shape) + posterior.batch_shape
        choose = choose_sample
        if noise is not None:
            choose = choose_from_noise(noise.expand(*batch, -1).reshape(-1, self.nlatent), self.decoder.sizes)
        path = posterior.path(choose, shape)
        assert path.posterior is not None
        q, p = (
            DiagonalNormal(d.loc.unflatten(0, batch), d.log_sigma.unflatten(0, batch))
            for d in (path.posterior, path.prior)
        )
        return Inference(q, path.z.unflatten(0, batch), self.likelihood(path.output), p)

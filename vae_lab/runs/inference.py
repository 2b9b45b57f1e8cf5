"""Passes of whole sets through a model, a batch at a time, on the model's device; results on the CPU."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.images import Images
from vae_lab.evaluation.metrics.likelihood import placed
from vae_lab.evaluation.metrics.reconstruction import reconstruction_metrics
from vae_lab.models.modes import evaluating
from vae_lab.models.vae import LatentModel
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.system.randomness import seeded

NUMBERS = 1_000_000
"""Pixels and channels decoded at once: some hundreds of megabytes of activations."""

Pixels = Float[Tensor, "n channels height width"]
Labels = Int64[Tensor, " m"]


class Reconstruction(NamedTuple):
    """What is left of a set after encoding and decoding.

    Attributes:
        decoded: mean images of the posterior means.
        means: posterior means.
        log_sigmas: posterior log sigmas; None where latents depend on each other.
        moves: posterior means less the prior's, which moves with the groups above in a ladder: a latent's own part.
        metrics: mse, psnr and ssim; see `reconstruction_metrics`.
    """

    decoded: Pixels
    means: Float[Tensor, "n nlatent"]
    log_sigmas: Float[Tensor, "n nlatent"] | None
    moves: Float[Tensor, "n nlatent"]
    metrics: dict[str, float]


@torch.no_grad()
def reconstruct(model: LatentModel, images: Images) -> Reconstruction:
    """Return every image's posterior and its reconstruction."""
    metrics = reconstruction_metrics(model.image_size)
    decoded, means, log_sigmas, moves = [], [], [], []
    with evaluating(model):
        for given, image in batches(images, model):
            posterior = given.posterior(image)
            inference = given.infer(posterior, noise=image.new_zeros(1, model.nlatent))
            decoded.append(inference.generative.mean.cpu())
            means.append(inference.z.cpu())
            moves.append((inference.posterior.mean - inference.prior.mean).cpu())
            if isinstance(posterior, DiagonalNormal):
                log_sigmas.append(posterior.log_sigma.cpu())
            metrics.update(decoded[-1], image.cpu())
    values = {name: float(value) for name, value in metrics.compute().items()}
    sigmas = torch.cat(log_sigmas) if log_sigmas else None
    return Reconstruction(torch.cat(decoded), torch.cat(means), sigmas, torch.cat(moves), values)


@torch.no_grad()
def generate(
    model: LatentModel, sampler: Distribution | Images, n: int, *, labels: Labels, name: str, seed: int
) -> Pixels:
    """Return the mean images of `n` latents.

    Args:
        model: decodes.
        sampler: a density over latents; or images, for a latent of the posterior of each of the first `n`.
        n: number of images, no more than there are in `sampler`.
        labels: those that a conditional model draws from, for latents that come without an image.
        name: of the sampler, which decides the draws together with the seed.
        seed: of the draws.
    """
    parts = []
    batch, weight = batch_size(model), next(model.parameters())
    for start in range(0, n, batch):
        with seeded("evaluate", name, seed, start), evaluating(model):
            stop = min(start + batch, n)
            if isinstance(sampler, Images):
                given, image = placed(model, sampler, slice(start, stop))
                z = given.posterior(image).rsample()
            else:
                z = sampler.sample((stop - start,))
                given = model.given(labels[torch.randint(len(labels), (len(z),))])
            parts.append(given.generative(z.to(weight)).mean.cpu())
    return torch.cat(parts)


def batches(images: Images, model: LatentModel) -> Iterator[tuple[LatentModel, Pixels]]:
    """Yield the images of a set as floats, in order, on the model's device, each batch beside the model given it."""
    for rows in torch.arange(len(images)).split(batch_size(model)):
        yield placed(model, images, rows)


def batch_size(model: LatentModel) -> int:
    """Return how many images a pass takes at once: fewer of larger ones, at most 500."""
    return max(1, min(500, NUMBERS // (model.channels * model.image_size**2)))


def every_pixel(images: Images, n: int | None = None) -> Pixels:
    """Return the first `n` images of a set, or all, as floats on the CPU."""
    return images.__getitems__(slice(n)).image

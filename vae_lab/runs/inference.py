"""Batched passes of a data set through a model, on its device; results on the CPU."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.data.images import ImageSet
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.system.randomness import seeded

NUMBERS = 1_000_000
"""Pixels and channels decoded at once: some hundreds of megabytes of activations."""

Pixels = Float[Tensor, "n channels height width"]
Labels = Int64[Tensor, " m"]


@torch.no_grad()
def decode_samples(
    model: LatentModel, sampler: Distribution | ImageSet, n: int, *, labels: Labels, name: str, seed: int
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
            if isinstance(sampler, ImageSet):
                given, image = placed(model, sampler, slice(start, stop))
                z = given.posterior(image).rsample()
            else:
                z = sampler.sample((stop - start,))
                given = model.given(labels[torch.randint(len(labels), (len(z),))])
            parts.append(given.generative(z.to(weight)).mean.cpu())
    return torch.cat(parts)


def batches(images: ImageSet, model: LatentModel) -> Iterator[tuple[LatentModel, Pixels]]:
    """Yield the images of a set as floats, in order, on the model's device, each batch beside the model given it."""
    for rows in torch.arange(len(images)).split(batch_size(model)):
        yield placed(model, images, rows)


def batch_size(model: LatentModel) -> int:
    """Return how many images a pass takes at once: fewer of larger ones, at most 500."""
    return max(1, min(500, NUMBERS // (model.channels * model.image_size**2)))


def every_pixel(images: ImageSet, n: int | None = None) -> Pixels:
    """Return the first `n` images of a set, or all, as floats on the CPU."""
    return images.__getitems__(slice(n)).image


def placed(
    model: LatentModel, images: ImageSet, rows: Int64[Tensor, " some"] | slice
) -> tuple[LatentModel, Float[Tensor, "some channels height width"]]:
    """Return the model of the classes of some images, and those images on its device, in its precision."""
    batch = images.__getitems__(rows)
    return model.given(batch.label), batch.image.to(next(model.parameters()))

"""Batched inference over a data set on the model's device, with results on the CPU."""

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
"""Maximum number of pixels in a batch, over all channels; activations then take some hundred megabytes."""

Pixels = Float[Tensor, "n channels height width"]
Labels = Int64[Tensor, " m"]


@torch.no_grad()
def decode_samples(
    model: LatentModel, sampler: Distribution | ImageSet, n: int, *, labels: Labels, name: str, seed: int
) -> Pixels:
    """Return the mean images decoded from `n` latents, drawn from a distribution or from the posteriors of images.

    Args:
        model: the model.
        sampler: a distribution of latents; or images, whose first `n` posteriors are sampled.
        n: number of latents, at most the number of images in `sampler`.
        labels: labels from which a conditional model draws if `sampler` is a distribution.
        name: of the sampler, which seeds the draws together with `seed`.
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
    """Yield (model conditioned on the labels, images on the model's device) for each batch of a set, in order."""
    for rows in torch.arange(len(images)).split(batch_size(model)):
        yield placed(model, images, rows)


def batch_size(model: LatentModel) -> int:
    """Return the number of images per batch, at most 500 and fewer for large images."""
    return max(1, min(500, NUMBERS // (model.channels * model.image_size**2)))


def every_pixel(images: ImageSet, n: int | None = None) -> Pixels:
    """Return the pixels of the first `n` images of a set, or of all if `n` is None, as floats on the CPU."""
    return images.__getitems__(slice(n)).image


def placed(
    model: LatentModel, images: ImageSet, rows: Int64[Tensor, " some"] | slice
) -> tuple[LatentModel, Float[Tensor, "some channels height width"]]:
    """Return the model conditioned on the labels of `rows`, and their images on the model's device in its precision."""
    batch = images.__getitems__(rows)
    return model.given(batch.label), batch.image.to(next(model.parameters()))

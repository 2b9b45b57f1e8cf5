"""Grids of images, as uint8 tensors [3 or 1, height, width] ready to be written as PNG."""

import torch

from vae_lab.data.grids import Grid, Image, grid, paired
from vae_lab.probability.latent_model import LatentModel


@torch.no_grad()
def reconstructions(model: LatentModel, images: Image, ncolumns: int = 8) -> Grid:
    """Return a grid of images, with a row of their reconstructions from the posterior mean below each row."""
    decoded = model.generative(model.posterior(images).mean).mean
    return grid(paired(images, decoded, ncolumns), ncolumns)


@torch.no_grad()
def samples(model: LatentModel, nsamples: int, ncolumns: int = 8) -> Grid:
    """Return a grid of mean images decoded from draws of the prior; a conditional model gets one row per class."""
    if not model.nclasses:
        return grid(model.generative(model.prior().sample((nsamples,))).mean, ncolumns)
    ncolumns = max(1, nsamples // model.nclasses)
    z = model.prior().sample((ncolumns,)).repeat(model.nclasses, 1)
    labels = torch.arange(model.nclasses).repeat_interleave(ncolumns)
    return grid(model.given(labels).generative(z).mean, ncolumns)


@torch.no_grad()
def traversals(model: LatentModel, image: Image, ndimensions: int = 12, ncolumns: int = 11, reach: float = 3.0) -> Grid:
    """Return a grid of decoded images with one row per latent dimension, which varies from -reach to reach.

    The other latents stay at the posterior mean of the first image. If there are more than `ndimensions` latents, the
    grid shows those whose posterior means vary most over `image`.
    """
    means = model.posterior(image).mean
    chosen = means.var(0, correction=0).topk(min(ndimensions, means.shape[1])).indices.sort().values
    latents = means[:1].repeat(len(chosen) * ncolumns, 1).unflatten(0, (len(chosen), ncolumns))
    latents[torch.arange(len(chosen)), :, chosen] = torch.linspace(-reach, reach, ncolumns).to(latents)
    first, _ = next(iter(model.split(image, 1)))
    return grid(first.generative(latents.flatten(0, 1)).mean, ncolumns)

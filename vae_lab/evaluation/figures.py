"""Grids of images with words, as uint8 tensors [3, height, width] ready to be written as PNG."""

import textwrap
from collections.abc import Sequence

import torch

from vae_lab.data.captions import captioned
from vae_lab.data.grids import Grid, Image, grid, paired
from vae_lab.probability.latent_model import LatentModel, latent_rates


@torch.no_grad()
def reconstructions(model: LatentModel, images: Image, ncolumns: int = 8) -> Grid:
    """Return a grid of images, with a row of their reconstructions from the posterior mean below each row."""
    decoded = model.generative(model.posterior(images).mean).mean
    rows = ["image", "recon-\nstruction"] * -(-len(images) // ncolumns)
    caption = "Validation images, each row above the row of their reconstructions from the posterior means."
    return captioned(grid(paired(images, decoded, ncolumns), ncolumns), caption, rows)


@torch.no_grad()
def samples(model: LatentModel, nsamples: int, ncolumns: int = 8, classes: Sequence[str] = ()) -> Grid:
    """Return a grid of mean images decoded from draws of the prior; a conditional model gets one row per class.

    Args:
        model: the model.
        nsamples: number of images.
        ncolumns: images in a row of an unconditional model.
        classes: names of the classes; those without one are named by their number.
    """
    if not model.nclasses:
        caption = "Samples: mean images decoded from random draws of the prior."
        return captioned(grid(model.generative(model.prior().sample((nsamples,))).mean, ncolumns), caption)
    ncolumns = max(1, nsamples // model.nclasses)
    z = model.prior().sample((ncolumns,)).repeat(model.nclasses, 1)
    labels = torch.arange(model.nclasses).repeat_interleave(ncolumns)
    names = [*classes[: model.nclasses], *map(str, range(len(classes), model.nclasses))]
    rows = ["\n".join(textwrap.wrap(name, 14, max_lines=3)) for name in names]
    caption = "Samples of each class: a column has one random draw of the prior, decoded in every class."
    return captioned(grid(model.given(labels).generative(z).mean, ncolumns), caption, rows)


@torch.no_grad()
def traversals(model: LatentModel, image: Image, ndimensions: int = 12, ncolumns: int = 11, reach: float = 3.0) -> Grid:
    """Return a grid of decoded images with one row per latent dimension, which varies from -reach to reach.

    The other latents stay at the posterior mean of the first image. The rows are the `ndimensions` latents with the
    largest KL to the prior, averaged over `image`, in that order.
    """
    inference = model.infer(model.posterior(image), noise=image.new_zeros(1, model.nlatent))
    rates = latent_rates(inference).mean(0)
    chosen = rates.topk(min(ndimensions, model.nlatent)).indices
    latents = inference.posterior.mean[:1].repeat(len(chosen) * ncolumns, 1).unflatten(0, (len(chosen), ncolumns))
    latents[torch.arange(len(chosen)), :, chosen] = torch.linspace(-reach, reach, ncolumns).to(latents)
    first, _ = next(iter(model.split(image, 1)))
    rows = [f"latent {k}\nKL {rates[k]:.2f}" for k in chosen.tolist()]
    caption = (
        f"Each row moves one latent of the first validation image from -{reach:g} (left) to {reach:g} (right), the"
        " others stay; rows in the order of their KL to the prior in nats."
    )
    return captioned(grid(first.generative(latents.flatten(0, 1)).mean, ncolumns), caption, rows)

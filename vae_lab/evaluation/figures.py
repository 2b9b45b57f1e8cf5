"""Grids of images, as uint8 tensors [3 or 1, height, width] ready to be written as PNG."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.utils import make_grid

from vae_lab.probability.latent_model import LatentModel

Image = Float[Tensor, "batch channels height width"]
Grid = UInt8[Tensor, "3 gridheight gridwidth"]

SMALLEST_TILE = 56
GAP_BRIGHTNESS = 0.35


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Return pixels in [0, 1] as whole numbers from 0 to 255, rounded, on the CPU."""
    return (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def grid(images: Image, ncolumns: int) -> Grid:
    """Return the images in rows of `ncolumns`, small ones enlarged by whole factors so that they can be looked at."""
    factor = -(-SMALLEST_TILE // images.shape[-1])
    large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return to_uint8(make_grid(large, nrow=ncolumns, padding=2, pad_value=GAP_BRIGHTNESS))


def paired(above: Image, below: Image, ncolumns: int) -> Float[Tensor, "both channels height width"]:
    """Return the images in an order that `grid` lays out as rows of the first with the matching ones under each."""
    blank = above.new_full((-len(above) % ncolumns, *above.shape[1:]), GAP_BRIGHTNESS)  # else a short row is misaligned
    rows = zip(torch.cat([above, blank]).split(ncolumns), torch.cat([below, blank]).split(ncolumns), strict=True)
    return torch.cat([torch.cat(pair) for pair in rows])


@torch.no_grad()
def reconstructions(model: LatentModel, images: Image, ncolumns: int = 8) -> Grid:
    """Return each row of images with the row of their reconstructions from the posterior mean under it."""
    decoded = model.generative(model.posterior(images).mean).mean
    return grid(paired(images, decoded, ncolumns), ncolumns)


@torch.no_grad()
def samples(model: LatentModel, nsamples: int, ncolumns: int = 8) -> Grid:
    """Return the mean images of latents drawn from the prior; of a conditional model, a row of them for each class."""
    if not model.nclasses:
        return grid(model.generative(model.prior().sample((nsamples,))).mean, ncolumns)
    ncolumns = max(1, nsamples // model.nclasses)
    return grid(of_every_class(model, model.prior().sample((ncolumns,))), ncolumns)


def of_every_class(model: LatentModel, z: Float[Tensor, "n nlatent"]) -> Float[Tensor, "all channels height width"]:
    """Return the mean images of the latents in each class of a conditional model, class after class."""
    labels = torch.arange(model.nclasses).repeat_interleave(len(z))
    return model.given(labels).generative(z.repeat(model.nclasses, 1)).mean


@torch.no_grad()
def traversals(model: LatentModel, image: Image, ndimensions: int = 12, ncolumns: int = 11, reach: float = 3.0) -> Grid:
    """Return one row for each latent, moved from -reach to reach while the others stay where the first image is.

    If there are more than `ndimensions` latents, those whose posterior means vary most over `image` are shown.
    """
    means = model.posterior(image).mean
    chosen = means.var(0, correction=0).topk(min(ndimensions, means.shape[1])).indices.sort().values
    latents = means[:1].repeat(len(chosen) * ncolumns, 1).unflatten(0, (len(chosen), ncolumns))
    latents[torch.arange(len(chosen)), :, chosen] = torch.linspace(-reach, reach, ncolumns).to(latents)
    first, _ = next(iter(model.split(image, 1)))
    return grid(first.generative(latents.flatten(0, 1)).mean, ncolumns)

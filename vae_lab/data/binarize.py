"""Binarization: each pixel becomes 1 with its grey value as the probability."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from vae_lab.data.images import ImageSet, Splits
from vae_lab.system.randomness import counter_seed

WAYS = (None, "static", "dynamic")


def binarized(pixels: UInt8[Tensor, "*shape"], *counters: int | str) -> UInt8[Tensor, "*shape"]:
    """Return 255 where a draw from the counters says so, with probability pixel / 255, and 0 elsewhere.

    The draws are whole numbers from 0 to 254, so the probabilities are exact and 0 and 255 stay what they are.
    """
    generator = torch.Generator().manual_seed(counter_seed("binarize", *counters))
    draws = torch.empty_like(pixels).random_(0, 255, generator=generator)
    return (draws < pixels).to(torch.uint8).mul_(255)


def static_splits(parts: Splits, *names: str, seed: int) -> Splits:
    """Return the parts with the named ones binarized once, as `seed` says; the others stay grey."""

    def fixed(name: str, images: ImageSet) -> ImageSet:
        return ImageSet(binarized(images.pixels(slice(None)), "static", seed, name), images.labels)

    return parts._replace(**{name: fixed(name, getattr(parts, name)) for name in names})

"""Random binarization of images: each pixel becomes 1 with its grey value as probability, else 0."""

import hashlib

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vae_lab.data.images import ImageSet, Splits, scaled
from vae_lab.system.randomness import counter_seed

WAYS = (None, "static", "dynamic")


def binarized(pixels: UInt8[Tensor, "*shape"], *counters: int | str) -> UInt8[Tensor, "*shape"]:
    """Return uint8 pixels that are 255 with probability pixel / 255, else 0, drawn by a hash of `counters` as seed.

    The draws are integers from 0 to 254, so the probabilities are exact, and pixels of 0 and 255 never change.
    """
    generator = torch.Generator().manual_seed(counter_seed("binarize", *counters))
    draws = torch.empty_like(pixels).random_(0, 255, generator=generator)
    return (draws < pixels).to(torch.uint8).mul_(255)


def static_splits(parts: Splits, *names: str, seed: int) -> Splits:
    """Return the splits, those in `names` binarized once by the random seed `seed`, the others unchanged."""

    def fixed(name: str, images: ImageSet) -> ImageSet:
        return ImageSet(binarized(images.pixels(slice(None)), "static", seed, name), images.labels)

    return parts._replace(**{name: fixed(name, getattr(parts, name)) for name in names})


def prepared(
    pixels: UInt8[Tensor, "n channels height width"], *, binary: bool
) -> Float[Tensor, "n channels height width"]:
    """Return pixels as floats in [0, 1] for the model; if `binary`, binarize each with a seed from its content."""
    if binary:
        pixels = torch.stack([binarized(image, "detect", content_hash(image)) for image in pixels])
    return scaled(pixels)


def content_hash(image: UInt8[Tensor, "channels height width"]) -> str:
    """Return a 64-bit hash of an image's pixels, as hexadecimal digits."""
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=8).hexdigest()

"""Search for near-duplicate images in different splits of a data set."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8, UInt64
from torch import Tensor

MAX_BITS = 6
"""Maximum number of differing bits, of 64, in the hashes of near duplicates; another compression changes a few."""

CORRELATION = 0.98
"""Minimum correlation between the pixels of near duplicates."""

SIDE = 64
"""Maximum side in pixels of the images that are correlated; larger images are subsampled."""

NPARTNERS = 2
"""Number of pictures, those with the nearest hashes, whose pixels are correlated with a picture's pixels."""

MAX_COMPARISONS = 10**8
"""Maximum number of compared pairs of hashes, about a second; with more pictures, some held-out ones are unchecked."""

ATONCE = 256

Pixels = UInt8[Tensor, "n channels height width"]
Rows = Int64[Tensor, " m"]


class NearDuplicates(NamedTuple):
    """The number of near duplicates between the splits of a data set, and one example.

    Attributes:
        nlooked: number of validation and test pictures that were checked.
        count: number of these with a near duplicate in another part.
        pair: the rows of two near duplicates; None without any.
    """

    nlooked: int
    count: int
    pair: tuple[int, int] | None


def near_duplicates(pixels: Pixels, hashes: UInt64[np.ndarray, " n"], part: Int64[Tensor, " n"]) -> NearDuplicates:
    """Return how many validation and test images have a near duplicate in another split, and one example.

    Near duplicates have similar difference hashes and correlated pixels. The hash alone is not enough: it is 0 for
    every picture of one colour, and similar for all digits, whose black margins have no gradient. A picture of one
    colour has no near duplicates, because its pixels correlate with nothing.

    Args:
        pixels: of all pictures.
        hashes: of all pictures; see `Source.dhash`.
        part: of each picture: 0 for training, 1 for validation, 2 for test.
    """
    held_out = part.nonzero().flatten()
    step = max(1, -(-len(held_out) * len(part) // MAX_COMPARISONS))
    looked = held_out[::step]
    signs = _signs(hashes)
    near, pair = 0, None
    for rows in looked.split(ATONCE):
        distances = (64 - signs[rows] @ signs.T) / 2
        distances[part[rows][:, None] == part] = 65
        nearest = distances.topk(min(NPARTNERS, len(part)), largest=False)
        found = nearest.values <= MAX_BITS
        found[found.clone()] = _correlate(pixels, rows[found.nonzero()[:, 0]], nearest.indices[found])
        hit = found.any(1)
        near += int(hit.sum())
        if pair is None and hit.any():
            first, partner = found.nonzero()[0].tolist()
            pair = (int(nearest.indices[first, partner]), int(rows[first]))
    return NearDuplicates(len(looked), near, pair)


def _signs(hashes: UInt64[np.ndarray, " n"]) -> Float[Tensor, "n 64"]:
    """Return the 64 bits of each hash as -1 and 1."""
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1)
    return torch.from_numpy(bits).float() * 2 - 1


def _correlate(pixels: Pixels, first: Rows, second: Rows) -> Bool[Tensor, " m"]:
    """Return for each pair of images whether the correlation of their pixels is at least `CORRELATION`."""
    found = [torch.empty(0, dtype=torch.bool)]
    for one, other in zip(first.split(ATONCE), second.split(ATONCE), strict=True):
        a, b = _centred(pixels, one), _centred(pixels, other)
        found.append((a * b).sum(1) >= CORRELATION * (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-6))
    return torch.cat(found)


def _centred(pixels: Pixels, rows: Rows) -> Float[Tensor, "m values"]:
    """Return the pixels of each image minus their mean; images larger than `SIDE` pixels are subsampled."""
    step = max(1, pixels.shape[-1] // SIDE)
    values = pixels[rows][:, :, ::step, ::step].flatten(1).float()
    return values - values.mean(1, keepdim=True)

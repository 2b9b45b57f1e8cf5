"""Near-duplicate images in different parts of a data set."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8, UInt64
from torch import Tensor

MAX_BITS = 6
"""Of 64 by which the difference hashes of near duplicates differ, at most: another compression turns a few."""

CORRELATION = 0.98
"""Of the pixels of near duplicates, at least."""

SIDE = 64
"""Pixels along a side that are compared, at most."""

NPARTNERS = 2
"""Pictures of other parts, those with the nearest hashes, that one picture's pixels are compared with."""

MAX_COMPARISONS = 10**8
"""Of hashes, about a second's: of more than 20,000 pictures, fewer of those to validate and test on are looked at."""

ATONCE = 256

Pixels = UInt8[Tensor, "n channels height width"]
Rows = Int64[Tensor, " m"]


class NearDuplicates(NamedTuple):
    """What is nearly the same in two parts.

    Attributes:
        nlooked: validation and test pictures that were looked at.
        count: those of them with a near duplicate in another part.
        pair: the rows of two such pictures; None if there are none.
    """

    nlooked: int
    count: int
    pair: tuple[int, int] | None


def near_duplicates(pixels: Pixels, hashes: UInt64[np.ndarray, " n"], part: Int64[Tensor, " n"]) -> NearDuplicates:
    """Return which pictures to validate or test on have near duplicates in another part.

    Near duplicates have difference hashes that hardly differ, and pixels that correlate. The hash alone is not enough:
    it is 0 for every picture of one colour, and hardly differs among digits, whose black margins have no gradient.
    Pictures of one colour have no near duplicates, since nothing in them correlates.

    Args:
        pixels: of all pictures.
        hashes: of all pictures; see `Source.dhash`.
        part: of each picture: 0 to train on, 1 to validate on, 2 to test on.
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
    """Return the bits of hashes as -1 and 1."""
    bits = np.unpackbits(hashes[:, None].view(np.uint8), axis=1)
    return torch.from_numpy(bits).float() * 2 - 1


def _correlate(pixels: Pixels, first: Rows, second: Rows) -> Bool[Tensor, " m"]:
    """Return whether the pixels of each pair of pictures correlate as those of near duplicates do."""
    found = [torch.empty(0, dtype=torch.bool)]
    for one, other in zip(first.split(ATONCE), second.split(ATONCE), strict=True):
        a, b = _centred(pixels, one), _centred(pixels, other)
        found.append((a * b).sum(1) >= CORRELATION * (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-6))
    return torch.cat(found)


def _centred(pixels: Pixels, rows: Rows) -> Float[Tensor, "m values"]:
    """Return the pixels of some pictures, every so many-th of large ones, less their mean."""
    step = max(1, pixels.shape[-1] // SIDE)
    values = pixels[rows][:, :, ::step, ::step].flatten(1).float()
    return values - values.mean(1, keepdim=True)

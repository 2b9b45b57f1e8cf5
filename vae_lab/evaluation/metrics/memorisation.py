"""Memorisation: whether samples are copies of training images.

Distances are Euclidean over pixels in [0, 1] and channels, on images of at most `side` pixels a side: larger ones are
first averaged down by areas, which keeps what they show and makes 256-pixel sets affordable.

How small is too small is measured on the training set itself, where an image's nearest other is no copy. Two
statistics are compared with it, the distance and the *ratio* of the distance to the mean of those to the next few
images, which asks whether one training image stands out as the source.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vae_lab.data.grids import Grid, grid, paired
from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count

Image = Float[Tensor, "n channels height width"]


NEXT = 5
"""Neighbours after the nearest that a distance is compared with."""

USUAL = 0.01
"""Share of the training images that the thresholds would call copies."""


CHUNK_NUMBERS = 40_000_000
"""Numbers of training images in memory as floats: 160 MB, or 200 colour pictures of 256 pixels."""

SPARE = 16
"""Candidates beyond those asked for that float32 hands on to be measured exactly."""


class CopyThresholds(NamedTuple):
    """How near training images come to each other.

    Attributes:
        threshold: 1st percentile of the distances from training images to their nearest others.
        ratio_threshold: 1st percentile of the training images' ratios.
    """

    threshold: float
    ratio_threshold: float


class Memorisation(NamedTuple):
    """How many samples are nearer to a training image than training images are to each other.

    Attributes:
        share: of the samples whose distance is below `threshold`; about 0.01 where nothing is copied.
        threshold: 1st percentile of the distances from training images to their nearest others.
        ratio_share: of the samples whose ratio is below `ratio_threshold`; about 0.01 where nothing is copied.
        ratio_threshold: 1st percentile of the training images' ratios.
        distances: of each sample to the nearest training image.
        ratios: that distance over the mean distance to the next 5 training images, 0 for a copy.
        indices: where in the training set the nearest images are.
    """

    share: float
    threshold: float
    ratio_share: float
    ratio_threshold: float
    distances: Float64[Tensor, " n"]
    ratios: Float64[Tensor, " n"]
    indices: Int64[Tensor, " n"]


class Neighbours(NamedTuple):
    """The nearest references of each query, nearest first: their distances, and where they are in their set."""

    distances: Float64[Tensor, "n k"]
    indices: Int64[Tensor, "n k"]


def copy_thresholds(
    training: ImageSet, *, nreference: int, side: int, seed: int, flips: bool = False
) -> CopyThresholds:
    """Return what training images that are no copies of each other have at the least.

    Those with an exact duplicate say nothing about how near others come and don't count.

    Args:
        training: the images that a model was trained on.
        nreference: training images, drawn at random, whose neighbours are looked at; all if there are fewer.
        side: pixels a side above which images are averaged down.
        seed: of that draw.
        flips: whether an image mirrored left to right is as near, as for a model that was trained on both.

    Raises:
        ValueError: if there are too few training images, or nearly all are duplicates.
    """
    require_count("nreference", nreference)
    rows = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:nreference]
    images = training.__getitems__(rows).image
    distances = nearest_way(images, training, NEXT + 1, side=side, exclude=rows, flips=flips).distances
    single = distances[:, 0] > 0
    if not single.any():
        raise ValueError(f"All {len(rows)} training images looked at have exact duplicates; raise nreference.")
    return CopyThresholds(*(values[single].quantile(USUAL).item() for values in (distances[:, 0], _ratios(distances))))


def memorisation(
    samples: Image, training: ImageSet, usual: CopyThresholds, *, side: int, flips: bool = False
) -> Memorisation:
    """Return how many samples are too near to a training image, and to which.

    Measured beside 10,000 MNIST digits: blur does not make a sample look copied. Of held-out digits 0.5 % count by
    distance, and of those blurred with sigma 1 pixel none, since they are further from every sharp image. What it does
    is hide copies: blurred with sigma 0.5 all are found (beside 60,000 digits 81 % by distance), with sigma 1 none by
    distance and a third by ratio; with noise of 0.1 none and 90 %.
    The distance also depends on what is drawn: the nearest pairs of MNIST are ones, and of held-out ones 8 % count
    by distance and 3 % by ratio. Trust the ratio where the two disagree.

    Where nothing is copied both shares have a standard error of about sqrt(0.01 (1/n + 1/nreference)), the second term
    for the percentile's own error. A set of images that training has never seen shows what to expect: training images
    that resemble each other, as those by one writer or of one motif do, lower the threshold. A sample that equals a
    training image which has a duplicate is as much of a copy as any.

    Args:
        samples: images in [0, 1].
        training: the images that a model was trained on.
        usual: what is usual among them, at the same `side` and with the same `flips`.
        side: pixels a side above which images are averaged down.
        flips: whether a sample that is a training image mirrored left to right is a copy of it.
    """
    distances, indices = nearest_way(samples, training, NEXT + 1, side=side, flips=flips)
    ratios = _ratios(distances)
    return Memorisation(
        share=_share(distances[:, 0] < usual.threshold), threshold=usual.threshold,
        ratio_share=_share(ratios < usual.ratio_threshold), ratio_threshold=usual.ratio_threshold,
        distances=distances[:, 0], ratios=ratios, indices=indices[:, 0],
    )  # fmt: skip


def _ratios(distances: Float64[Tensor, "n k"]) -> Float64[Tensor, " n"]:
    """Return the first distance over the mean of the others; 0 where all are 0, which no sample but a copy reaches."""
    return (distances[:, 0] / distances[:, 1:].mean(1)).nan_to_num(0.0)


def _share(flags: Bool[Tensor, " n"]) -> float:
    return flags.double().mean().item()


def neighbour_panel(samples: Image, training: ImageSet, indices: Int64[Tensor, " n"], ncolumns: int = 8) -> Grid:
    """Return each row of samples with the row of their nearest training images under it."""
    sources = training.__getitems__(indices.cpu()).image.to(samples)
    return grid(paired(samples, sources, ncolumns), ncolumns)


def nearest_way(
    queries: Image, references: ImageSet, k: int, *, side: int, flips: bool, exclude: Int64[Tensor, " n"] | None = None
) -> Neighbours:
    """Return the `k` nearest references of each image, as it is or, with `flips`, mirrored where that is nearer."""
    found = nearest(queries, references, k, side=side, exclude=exclude)
    if not flips:
        return found
    mirrored = nearest(queries.flip(-1), references, k, side=side, exclude=exclude)
    nearer = (mirrored.distances[:, 0] < found.distances[:, 0])[:, None]
    return Neighbours(*(torch.where(nearer, one, other) for one, other in zip(mirrored, found, strict=True)))


@torch.no_grad()
def nearest(
    queries: Image,
    references: ImageSet,
    k: int,
    *,
    side: int,
    exclude: Int64[Tensor, " n"] | None = None,
) -> Neighbours:
    """Return the `k` nearest references of each image.

    References are read 160 MB at a time, on the queries' device. Candidates are found by |q|^2 - 2 qr + |r|^2 in
    float32, `SPARE` more than asked for since its rounding confuses neighbours, and then measured in float64 by their
    differences, so that the distance of a copy is 0.

    Args:
        queries: images in [0, 1].
        references: the set to search.
        k: how many to return.
        side: pixels a side above which images are averaged down.
        exclude: for each query one reference that doesn't count, as a rule itself.
    """
    available = len(references) - (exclude is not None)
    chunk = max(1, CHUNK_NUMBERS // queries[:1].numel())
    require_count("k", k)
    require_count("side", side)
    if k > available:
        raise ValueError(f"There are {len(references)} images, too few for {k} neighbours of each; give more.")
    flat, device = _flat(queries, side), queries.device
    centre = flat.mean(0)  # products of what all images share would round away how they differ
    best, indices = flat.new_empty(len(flat), 0), torch.empty(len(flat), 0, dtype=torch.int64, device=device)
    for rows in torch.arange(len(references), device=device).split(min(chunk, 4096)):
        part = _flat_rows(references, rows.cpu(), side, device) - centre
        squares = part.square().sum(1) - 2 * (flat - centre) @ part.T
        if exclude is not None:
            squares[exclude.to(device)[:, None] == rows] = torch.inf
        ncandidates = min(k + SPARE, available, best.shape[1] + len(part))
        best, columns = torch.cat([best, squares], 1).topk(ncandidates, largest=False)
        indices = torch.cat([indices, rows.expand(len(flat), -1)], 1).gather(1, columns)
    candidates = (_flat_rows(references, column, side, device) for column in indices.T.cpu())
    exact = torch.stack([(flat.double() - one.double()).square().sum(1).sqrt() for one in candidates], 1)
    distances, order = exact.sort(dim=1, stable=True)
    return Neighbours(distances[:, :k].cpu(), indices.gather(1, order)[:, :k].cpu())


def _flat(images: Image, side: int) -> Float[Tensor, "n pixels"]:
    """Return images at no more than `side` pixels a side, as rows; equal images give equal rows to the last bit."""
    images = images.float().contiguous()
    height, width = (min(side, n) for n in images.shape[-2:])
    small = images if (height, width) == images.shape[-2:] else adaptive_avg_pool2d(images, (height, width))
    return small.flatten(1)


def _flat_rows(
    images: ImageSet, rows: Int64[Tensor, " n"], side: int, device: torch.device
) -> Float[Tensor, "n pixels"]:
    parts = (images.__getitems__(part).image.to(device) for part in rows.split(256))
    return torch.cat([_flat(part, side) for part in parts])

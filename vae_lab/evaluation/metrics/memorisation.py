"""Memorisation: whether samples are copies of training images.

Distances are Euclidean over pixels in [0, 1] and channels. Images larger than `side` pixels a side are first reduced by
area averaging, which keeps the content and makes 256-pixel sets affordable.

Two statistics measure how near a sample is to the training set: the distance to the nearest training image, and the
*ratio* of that distance to the mean distance to the next few training images, which is small if one training image
stands out as the source. Their thresholds come from the distances between different training images.
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
"""Number of neighbours after the nearest one in the denominator of the ratio."""

THRESHOLD_SHARE = 0.01
"""Share of the training images that lie below the thresholds."""

CHUNK_NUMBERS = 40_000_000
"""Pixels of training images in memory as floats: 160 MB, or 200 colour images of 256 pixels a side."""

SPARE = 16
"""Extra candidates of the float32 search, whose distances are then computed exactly."""


class CopyThresholds(NamedTuple):
    """The distance and the ratio of distances below which a sample counts as a copy of a training image.

    Attributes:
        threshold: 1st percentile of the distances from training images to their nearest neighbours.
        ratio_threshold: 1st percentile of the training images' ratios.
    """

    threshold: float
    ratio_threshold: float


class Memorisation(NamedTuple):
    """The shares of samples that count as copies of a training image, and each sample's nearest training image.

    Attributes:
        share: share of samples whose distance is below `threshold`; about 0.01 without copies.
        threshold: see `CopyThresholds`.
        ratio_share: share of samples whose ratio is below `ratio_threshold`; about 0.01 without copies.
        ratio_threshold: see `CopyThresholds`.
        distances: distance of each sample to the nearest training image.
        ratios: that distance divided by the mean distance to the next 5 training images; 0 for a copy.
        indices: index of the nearest training image of each sample.
    """

    share: float
    threshold: float
    ratio_share: float
    ratio_threshold: float
    distances: Float64[Tensor, " n"]
    ratios: Float64[Tensor, " n"]
    indices: Int64[Tensor, " n"]


class Neighbours(NamedTuple):
    """Distances and indices of the nearest reference images of each query image, nearest first."""

    distances: Float64[Tensor, "n k"]
    indices: Int64[Tensor, "n k"]


def copy_thresholds(
    training: ImageSet, *, nreference: int, side: int, seed: int, flips: bool = False
) -> CopyThresholds:
    """Return the thresholds for copies: the 1st percentiles of distance and ratio among training images.

    Training images with an exact duplicate are left out.

    Args:
        training: the images that a model was trained on.
        nreference: number of training images, drawn at random, whose neighbours are searched; all if there are fewer.
        side: images larger than this many pixels a side are reduced to it.
        seed: seed of the draw.
        flips: whether images mirrored left to right count too, for a model trained with random flips.

    Raises:
        ValueError: if there are too few training images, or all drawn ones have duplicates.
    """
    require_count("nreference", nreference)
    rows = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:nreference]
    images = training.__getitems__(rows).image
    distances = nearest_with_flips(images, training, NEXT + 1, side=side, exclude=rows, flips=flips).distances
    single = distances[:, 0] > 0
    if not single.any():
        raise ValueError(f"All {len(rows)} training images looked at have exact duplicates; raise nreference.")
    statistics = (distances[:, 0], _ratios(distances))
    return CopyThresholds(*(values[single].quantile(THRESHOLD_SHARE).item() for values in statistics))


def memorisation(
    samples: Image, training: ImageSet, thresholds: CopyThresholds, *, side: int, flips: bool = False
) -> Memorisation:
    """Return the shares of samples that count as copies of a training image, and the index of the nearest one.

    Measured with 10,000 MNIST digits: blur does not create false copies but hides true ones. By distance, 0.5 % of
    held-out digits count as copies, and none if blurred with sigma 1 pixel. Of true copies, all are found at sigma 0.5
    (81 % by distance with 60,000 digits); at sigma 1 none by distance and a third by ratio; with noise of 0.1 none and
    90 %. The distance also depends on the content: the nearest pairs of MNIST are ones, and 8 % of held-out ones count
    by distance, 3 % by ratio. Trust the ratio where the two disagree.

    Without copies, both shares have a standard error of about sqrt(0.01 (1/n + 1/nreference)), where the second term is
    the error of the percentile. Compare with the shares of unseen real images: training images that resemble each
    other, as those by one writer do, lower the thresholds.

    Args:
        samples: images in [0, 1].
        training: the images that a model was trained on.
        thresholds: thresholds for these images, with the same `side` and `flips`.
        side: images larger than this many pixels a side are reduced to it.
        flips: whether a training image mirrored left to right counts as its copy.
    """
    distances, indices = nearest_with_flips(samples, training, NEXT + 1, side=side, flips=flips)
    ratios = _ratios(distances)
    return Memorisation(
        share=_share(distances[:, 0] < thresholds.threshold), threshold=thresholds.threshold,
        ratio_share=_share(ratios < thresholds.ratio_threshold), ratio_threshold=thresholds.ratio_threshold,
        distances=distances[:, 0], ratios=ratios, indices=indices[:, 0],
    )  # fmt: skip


def _ratios(distances: Float64[Tensor, "n k"]) -> Float64[Tensor, " n"]:
    """Return the distance to the nearest neighbour divided by the mean distance to the others, or 0 if all are 0.

    All are 0 for a copy of a training image that has duplicates.
    """
    return (distances[:, 0] / distances[:, 1:].mean(1)).nan_to_num(0.0)


def _share(flags: Bool[Tensor, " n"]) -> float:
    return flags.double().mean().item()


def neighbour_panel(samples: Image, training: ImageSet, indices: Int64[Tensor, " n"], ncolumns: int = 8) -> Grid:
    """Return a grid of samples, with a row of their nearest training images below each row."""
    sources = training.__getitems__(indices.cpu()).image.to(samples)
    return grid(paired(samples, sources, ncolumns), ncolumns)


def nearest_with_flips(
    queries: Image, references: ImageSet, k: int, *, side: int, flips: bool, exclude: Int64[Tensor, " n"] | None = None
) -> Neighbours:
    """Return the `k` nearest references of each query image, or of its mirror image if `flips` and that is nearer."""
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
    """Return the `k` nearest reference images of each query image, by Euclidean distance between pixels.

    References are read 160 MB at a time, on the queries' device. A float32 search by |q|^2 - 2 qr + |r|^2 finds k +
    `SPARE` candidates, because rounding swaps close neighbours. Their distances are then computed in float64 from the
    differences, so that the distance of a copy is exactly 0.

    Args:
        queries: images in [0, 1].
        references: the set to search.
        k: number of neighbours to return.
        side: images larger than this many pixels a side are reduced to it.
        exclude: index of one reference per query to leave out, usually the query itself.
    """
    available = len(references) - (exclude is not None)
    chunk = max(1, CHUNK_NUMBERS // queries[:1].numel())
    require_count("k", k)
    require_count("side", side)
    if k > available:
        raise ValueError(f"There are {len(references)} images, too few for {k} neighbours of each; give more.")
    flat, device = _flat(queries, side), queries.device
    centre = flat.mean(0)  # subtracting the mean avoids cancellation in the products
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
    """Return each image as a vector of pixels, reduced to at most `side` pixels a side.

    Equal images give bitwise equal vectors.
    """
    images = images.float().contiguous()
    height, width = (min(side, n) for n in images.shape[-2:])
    small = images if (height, width) == images.shape[-2:] else adaptive_avg_pool2d(images, (height, width))
    return small.flatten(1)


def _flat_rows(
    images: ImageSet, rows: Int64[Tensor, " n"], side: int, device: torch.device
) -> Float[Tensor, "n pixels"]:
    parts = (images.__getitems__(part).image.to(device) for part in rows.split(256))
    return torch.cat([_flat(part, side) for part in parts])

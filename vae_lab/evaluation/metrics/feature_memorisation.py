"""Memorisation in features: whether samples are nearer to training images than unseen real images are.

Pixels tell copies only if nothing moves; features also find shifted, recoloured and mirrored ones. What is near in
features depends on the images, so the distances of unseen real images are the measure, not a fixed threshold.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vae_lab.data.grids import Grid, grid, paired
from vae_lab.data.images import ImageSet

CHUNK = 500

UNSEEN_SHARE = 0.05
"""Share of the unseen real images that lie below the threshold."""


class NearestVectors(NamedTuple):
    """The nearest training image of each image, in features.

    Attributes:
        distances: Euclidean distance to the nearest training image or its mirror image.
        indices: index of that training image.
        is_mirrored: whether its mirror image is nearer than itself.
    """

    distances: Float64[Tensor, " n"]
    indices: Int64[Tensor, " n"]
    is_mirrored: Bool[Tensor, " n"]


class FeatureMemorisation(NamedTuple):
    """How near a set of images is to the training images, compared with unseen real images.

    Attributes:
        distance: median distance to the nearest training image.
        unseen_distance: the same of unseen real images.
        near_share: share of the images that are nearer than `near_threshold`; 5 % for unseen real images.
        near_threshold: 5th percentile of the distances of unseen real images.
    """

    distance: float
    unseen_distance: float
    near_share: float
    near_threshold: float


def nearest_vectors(
    vectors: Float[Tensor, "n d"], training: Float[Tensor, "m d"], mirrored: Float[Tensor, "m d"]
) -> NearestVectors:
    """Return the nearest training image of each image.

    Args:
        vectors: features of the images.
        training: features of the training images.
        mirrored: features of the training images, mirrored left to right.
    """
    centre = training.double().mean(0)  # distances by inner products are more exact close to the origin
    both = torch.cat([training, mirrored]).double() - centre
    parts = [torch.cdist(part.double() - centre, both).min(1) for part in vectors.split(CHUNK)]
    distances, places = (torch.cat(values) for values in zip(*parts, strict=True))
    return NearestVectors(distances, places % len(training), places >= len(training))


def feature_memorisation(found: NearestVectors, unseen: NearestVectors) -> FeatureMemorisation:
    """Return how near a set of images is to the training images, compared with unseen real images."""
    threshold = unseen.distances.quantile(UNSEEN_SHARE)
    return FeatureMemorisation(
        found.distances.median().item(),
        unseen.distances.median().item(),
        (found.distances < threshold).double().mean().item(),
        threshold.item(),
    )


def nearest_panel(
    samples: Float[Tensor, "n channels height width"], training: ImageSet, found: NearestVectors, nshown: int = 16
) -> Grid:
    """Return a grid of the samples that are nearest to a training image, each above that image, mirrored if nearer."""
    rows = found.distances.argsort()[:nshown]
    sources = training.__getitems__(found.indices[rows]).image.to(samples)
    turned = torch.where(found.is_mirrored[rows][:, None, None, None], sources.flip(-1), sources)
    return grid(paired(samples[rows], turned, 8), 8)

"""Comparison of sets of images by the features of a network: KID, FID, precision, recall, density and coverage."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.images import ImageSet
from vae_lab.evaluation.metrics.features import Extractor, features_of
from vae_lab.evaluation.metrics.two_sample import frechet_interval, kernel_interval, manifold

ATONCE = 250
"""Images whose pixels are held as floats at once."""

FEWEST_FOR_FID = 2048
"""Below this number of images in either set, no Frechet distance is given: its bias is larger than the differences."""

Pixels = Float[Tensor, "n channels height width"]
Vectors = Float[Tensor, "n nfeatures"]
Reference = Float[Tensor, "m nfeatures"]


def extract_features(extractor: Extractor, images: Pixels | ImageSet, device: torch.device) -> Vectors:
    """Return the feature vectors of images, as a tensor on the CPU."""
    if isinstance(images, ImageSet):
        rows = torch.arange(len(images)).split(ATONCE)
        parts = (images.__getitems__(part).image for part in rows)
    else:
        parts = iter(images.split(ATONCE))
    return features_of(extractor, (part.to(device) for part in parts), ATONCE)


def compare_vectors(
    found: Vectors, reference: Reference, key: str, *, seed: int, ngroups: int, nreplicates: int, k: int
) -> dict[str, Any]:
    """Return the metrics of a set of feature vectors against a reference set, by name.

    Args:
        found: vectors of the images that are judged.
        reference: vectors of the images that they are compared with.
        key: name of the extractor, which ends the names of the metrics that depend on it.
        seed: seed of the replicates.
        ngroups: groups of either set for KID's interval.
        nreplicates: replicates for FID's interval.
        k: nearest neighbours in precision, recall, density and coverage.
    """
    kid = kernel_interval(reference, found, ngroups=ngroups)
    enough = min(len(reference), len(found)) >= FEWEST_FOR_FID
    fid = frechet_interval(reference, found, nreplicates=nreplicates, seed=seed)._asdict() if enough else None
    shares = manifold(reference, found, k)._asdict()
    sizes = {"nimages": len(found), "nreference": len(reference), "k": k}
    named = {"kid": kid._asdict(), "fid": fid, **shares}
    return sizes | {f"{name}_{key}": value for name, value in named.items()}

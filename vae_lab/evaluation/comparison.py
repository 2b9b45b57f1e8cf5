"""Comparison of sets of images by the features of a network: KID, FID, precision, recall, density and coverage."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.images import ImageSet
from vae_lab.evaluation.metrics.features import Extractor, features_of
from vae_lab.evaluation.metrics.power_spectrum import band_ratios
from vae_lab.evaluation.metrics.two_sample import frechet_interval, kernel_interval, manifold
from vae_lab.system.progress import track

log = logging.getLogger(__name__)

ATONCE = 250
"""Images whose pixels are held as floats at once."""

FEWEST_FOR_FID = 2048
"""Below this number of images in either set, no Frechet distance is given: its bias is larger than the differences."""

Pixels = Float[Tensor, "n channels height width"]
References = Float[Tensor, "m channels height width"]
Vectors = Float[Tensor, "n nfeatures"]
Reference = Float[Tensor, "m nfeatures"]


class Described(NamedTuple):
    """The feature vectors of several sets of images by one extractor.

    Attributes:
        key: name of the extractor.
        sets: of the images that are judged, by name.
        parts: of the images that they are compared with, by name of the part of the data set.
    """

    key: str
    sets: dict[str, Float[Tensor, "_ nfeatures"]]
    parts: dict[str, Float[Tensor, "_ nfeatures"]]

    def every_part_but(self, left_out: str | None) -> Reference:
        """Return the vectors of all parts together, without those of one part."""
        return torch.cat([vectors for part, vectors in self.parts.items() if part != left_out])


def describe_sets(
    extractor: Extractor, sets: Mapping[str, Pixels | ImageSet], parts: Mapping[str, ImageSet], device: torch.device
) -> Described:
    """Return the feature vectors of sets and parts by an extractor."""
    named = [("sets", name, images) for name, images in sets.items()]
    named += [("parts", name, images) for name, images in parts.items()]
    found: dict[str, dict[str, Tensor]] = {"sets": {}, "parts": {}}
    for kind, name, images in track(named, f"features of {extractor.key}"):
        found[kind][name] = extract_features(extractor, images, device)
    return Described(extractor.key, **found)


def compare_sets(
    described: Sequence[Described], reference_of: Callable[[Described, str], Reference], **settings: int
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each set of images by each extractor, against the reference that a function chooses.

    Args:
        described: vectors by each extractor.
        reference_of: returns the reference for a set, given the vectors and the set's name.
        settings: see `compare_vectors`.
    """
    table: dict[str, dict[str, Any]] = {}
    for one in described:
        for name, vectors in one.sets.items():
            row = compare_vectors(vectors, reference_of(one, name), one.key, **settings)
            table[name] = table.get(name, {}) | row
    return table


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


def compare_spectra(sets: Mapping[str, Pixels], reference: References) -> dict[str, dict[str, float] | None]:
    """Return the power of each set divided by that of the reference, by frequency band, or None if it is undefined."""
    table: dict[str, dict[str, float] | None] = {}
    for name, images in sets.items():
        try:
            table[name] = band_ratios(images, reference)
        except ValueError as error:
            log.warning("no power spectrum of %s: %s", name, error)
            table[name] = None
    return table

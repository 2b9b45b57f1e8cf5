"""Samples and reconstructions of a run against the images of its data set, in features.

A network trained on photographs compares them with all images of the data set, and beside that with one part of it.
Other extractors compare them with the part alone: the classifier has learnt the training images by heart.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.grids import Grid
from vae_lab.data.images import ImageSet, Splits
from vae_lab.evaluation.comparison import Described, compare_sets, describe_sets, extract_features
from vae_lab.evaluation.metrics.feature_memorisation import (
    NearestVectors,
    feature_memorisation,
    nearest_panel,
    nearest_vectors,
)
from vae_lab.evaluation.metrics.features import EfficientNetLite, Extractor
from vae_lab.evaluation.metrics.reconstruction import perceptual_distances
from vae_lab.evaluation.protocol import NTRAINING
from vae_lab.intervals import Mean

Pixels = Float[Tensor, "_ channels height width"]

RECONSTRUCTIONS, UNSEEN = "reconstructions", "unseen"


class Judgement(NamedTuple):
    """The numbers that features give, by section of the JSON file.

    Attributes:
        samples: the metrics of each set of samples; against all images of the data set if a network trained on
            photographs judges them, else against one part.
        against_split: the same against the part alone; empty if `samples` has them.
        reconstruction: the metrics of the reconstructions.
        memorisation: how near each set is to the training images in features, by the first extractor.
        panel: the samples from the prior that are nearest to a training image, each above that image.
    """

    samples: dict[str, dict[str, Any]]
    against_split: dict[str, dict[str, Any]]
    reconstruction: dict[str, Any]
    memorisation: dict[str, dict[str, float]]
    panel: Grid | None


class Compared(NamedTuple):
    """Which images are compared, and how.

    Attributes:
        split: the part that the samples are compared with, whose images are reconstructed.
        other: the part of the unseen real images.
        device: where features are computed.
        settings: seed, ngroups, nreplicates and k.
    """

    split: str
    other: str
    device: torch.device
    settings: dict[str, int]


def judge_samples(
    extractors: Sequence[Extractor], sets: dict[str, Pixels], decoded: Pixels, parts: Splits, how: Compared
) -> Judgement:
    """Return the numbers that the features of each extractor give for samples and reconstructions.

    Real images are not compared with themselves: those of `how.other`, and what is decoded from their posteriors, are
    compared with all others, and so are the reconstructions of `how.split`.

    Args:
        extractors: the one that judges, and those whose numbers are shown beside it.
        sets: real images and samples, by name.
        decoded: the reconstructions.
        parts: the images of the data set.
        how: which images are compared.
    """
    if not isinstance(extractors[0], EfficientNetLite):
        described = [describe_sets(one, sets, {how.split: getattr(parts, how.split)}, how.device) for one in extractors]
        samples = compare_sets(described, lambda one, _: one.parts[how.split], **how.settings)
        return Judgement(samples, {}, {}, {}, None)
    chosen = parts._asdict() | {"train": some_images(parts.train, how)}
    all_sets = sets | {RECONSTRUCTIONS: decoded}
    own = {"real": how.other, "posterior": how.other, RECONSTRUCTIONS: how.split}
    described = [describe_sets(one, all_sets, chosen, how.device) for one in extractors]
    samples = compare_sets(described, lambda one, name: one.every_part_but(own.get(name)), **how.settings)
    reconstruction = samples.pop(RECONSTRUCTIONS)
    against_split = compare_sets(described, lambda one, _: one.parts[how.split], **how.settings)
    del against_split[RECONSTRUCTIONS]
    kid = {f"r{key}": value for key, value in reconstruction.items() if key.startswith("kid_")}
    found = find_nearest(extractors[0], described[0], chosen["train"], how.device)
    copies = {name: name_by(found[name], found[UNSEEN], described[0].key) for name in sets}
    panel = nearest_panel(sets["prior"], chosen["train"], found["prior"])
    return Judgement(samples, against_split, kid, copies, panel)


def find_nearest(
    extractor: Extractor, described: Described, training: ImageSet, device: torch.device
) -> dict[str, NearestVectors]:
    """Return the nearest training images of each set and of the unseen real images, if there are any, in features."""
    mirrored = ImageSet(training.pixels(slice(None)).flip(-1), training.labels)
    turned = extract_features(extractor, mirrored, device)
    unseen = {UNSEEN: described.every_part_but("train")} if len(described.parts) > 1 else {}
    vectors = described.sets | unseen
    return {name: nearest_vectors(each, described.parts["train"], turned) for name, each in vectors.items()}


def name_by(found: NearestVectors, unseen: NearestVectors, key: str) -> dict[str, float]:
    """Return the numbers of `feature_memorisation`, with the extractor's key at the end of their names."""
    return {f"{name}_{key}": value for name, value in feature_memorisation(found, unseen)._asdict().items()}


def some_images(training: ImageSet, how: Compared) -> ImageSet:
    """Return the training images that are compared: random ones if there are more than `NTRAINING` allows."""
    limit = NTRAINING["cpu" if how.device.type == "cpu" else "cuda"]
    if len(training) <= limit:
        return training
    generator = torch.Generator().manual_seed(how.settings["seed"])
    return training.subset(torch.randperm(len(training), generator=generator)[:limit])


def perceived(
    judge: EfficientNetLite, images: Pixels, decoded: Pixels, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return the mean perceptual distance of decoded images from their images by a network, under its name."""
    found = perceptual_distances(judge.pyramid, images, decoded, device).double()
    mean = Mean(found.mean().item(), (found.std() / len(found) ** 0.5).item())
    return {f"perceptual_{judge.key}": mean._asdict()}

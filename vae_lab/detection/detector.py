"""Detectors: an anomaly score with its calibration, which gives each image a p-value.

The p-value is the rank of a score among those of held-out normal images, which come from the run's validation part.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from vae_lab.data.binarize import content_hash, prepared
from vae_lab.detection.conformal import discoveries, named_level, p_values, require_level, verdicts
from vae_lab.detection.metrics import CONSTANTS, constant_images, inverted
from vae_lab.detection.scores.anomaly import Heat, Score
from vae_lab.detection.scores.ensembles import Ensemble
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.system.progress import track

log = logging.getLogger(__name__)

BATCH = 250
Pixels = UInt8[Tensor, "n channels height width"]
Scores = Float64[Tensor, " n"]
Columns = dict[str, Scores]
Hashes = Int64[Tensor, " m"]

SEEN = ("", "train", "val")
"""Parts of the run's data by the number in the column "seen"; 0 is for images in neither part."""


class Detections(NamedTuple):
    """Anomaly scores, p-values and flags of images, as a detector returns them.

    Attributes:
        scores: anomaly scores, higher is more anomalous; in nats if the score has a unit.
        p_values: probabilities that a normal image has a score at least as high.
        flagged: whether the p-value is at most alpha, or low enough for the false discovery rate.
        details: other columns by name.
    """

    scores: Scores
    p_values: Float64[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    details: Columns

    def select(self, rows: list[int]) -> "Detections":
        """Return the results of some of the images."""
        details = {name: values[rows] for name, values in self.details.items()}
        return Detections(self.scores[rows], self.p_values[rows], self.flagged[rows], details)


class Detector(ABC):
    """Base class of detectors, which compare an image's anomaly score with the scores of held-out normal images.

    Attributes:
        calibration: scores of held-out normal images.
        key: identifies the score, its settings and the weights.
        model: the model in evaluation mode.
        binary: whether the model takes binary images; an image is then binarized with a seed from its own content.
        own: hashes of the run's training and validation images, by part; see `content_hashes`.
    """

    calibration: Scores
    key: str
    model: LatentModel
    binary: bool
    own: dict[str, Hashes]

    @abstractmethod
    def describe(self, pixels: Pixels) -> Columns:
        """Return the table columns by name, "score" first, with one value per image.

        The values of an image do not depend on the other images.
        """

    @abstractmethod
    def heat(self, pixels: Pixels) -> Heat:
        """Return how unusual each place of each image is; see `Score.heat`."""

    def preferred(self) -> dict[str, float]:
        """Return each constant image that scores lower than most normal images, with the share that score higher.

        See `inverted`.
        """
        constants = constant_images(self.model.channels, self.model.image_size, self.model.image_size)
        found = self.scores((constants * 255).round().to(torch.uint8))
        return inverted(self.calibration, {name: found[i : i + 1] for i, name in enumerate(CONSTANTS)})

    def scores(self, pixels: Pixels) -> Scores:
        """Return the anomaly score of each image."""
        return self.describe(pixels)["score"]

    def examine(self, pixels: Pixels) -> Columns:
        """Return the columns of `describe`, and "seen": 1 for training images, 2 for validation images, else 0."""
        hashes = content_hashes(pixels)
        seen = torch.zeros(len(pixels), dtype=torch.float64)
        for part in reversed(SEEN[1:]):  # training takes precedence for an image in both parts
            if part in self.own:
                seen[torch.isin(hashes, self.own[part])] = SEEN.index(part)
        return self.describe(pixels) | {"seen": seen}

    def judge(self, described: Columns, alpha: float, fdr: float | None = None) -> Detections:
        """Return scores, p-values and flags of images, given the columns that `describe` returns.

        Args:
            described: the columns by name.
            alpha: largest expected share of normal images that are flagged.
            fdr: if given, largest expected share of normal images among those that are flagged, in place of alpha; the
                flag of an image then depends on the other images.

        Raises:
            ValueError: if alpha or fdr is too small for any p-value to reach it.
        """
        require_level(len(self.calibration), *named_level(alpha, fdr))
        details = dict(described)
        scores = details.pop("score")
        p = p_values(self.calibration, scores)
        return Detections(scores, p, verdicts(p, alpha) if fdr is None else discoveries(p, fdr), details)


class RunDetector(Detector):
    """A detector that computes one anomaly score with the model of one run; see `Detector` for the arguments."""

    def __init__(
        self,
        model: LatentModel,
        score: Score,
        calibration: Scores,
        *,
        binary: bool,
        key: str,
        own: dict[str, Hashes] | None = None,
    ) -> None:
        self.own = own or {}
        self.model = model
        self.score = score
        self.calibration = calibration
        self.binary = binary
        self.key = key

    def describe(self, pixels: Pixels) -> Columns:
        """Return the table columns that the score computes, "score" first, with one value per image."""
        return describe_pixels(self.model, self.score, pixels, binary=self.binary)

    def heat(self, pixels: Pixels) -> Heat:
        """Return how unusual each place of each image is, by the score."""
        with evaluating(self.model):
            return self.score.heat(self.model, prepared(pixels, binary=self.binary))


class EnsembleDetector(Detector):
    """A detector that combines the scores of several runs, trained on the same images, into one score.

    Args:
        members: one detector per run.
        combine: combines the scores of the members.
    """

    def __init__(self, members: list[RunDetector], combine: Ensemble) -> None:
        self.members = members
        self.combine = combine
        self.own = members[0].own
        self.model = members[0].model
        self.binary = members[0].binary
        self.calibration = combine(torch.stack([member.calibration for member in members]))
        self.key = " ".join([type(combine).__name__, *(member.key for member in members)])

    def describe(self, pixels: Pixels) -> Columns:
        """Return the column "score", the combined score of each image."""
        return {"score": self.combine(torch.stack([member.scores(pixels) for member in self.members]))}

    def heat(self, pixels: Pixels) -> Heat:
        """Return how unusual each place of each image is, by the first run."""
        return self.members[0].heat(pixels)


class CombinedDetector(Detector):
    """A detector that combines several scores by Fisher's statistic, the sum of -log p over their p-values.

    The p-values are not independent, so the sum does not have Fisher's distribution. Like any score, it gets its
    p-value by its rank among normal images. The p-values of the calibration images are computed among themselves,
    without the new image. This can only make their sums larger, so the guarantee about alpha still holds.

    Args:
        members: detectors by name, calibrated on the same images.
    """

    def __init__(self, members: dict[str, Detector]) -> None:
        first = next(iter(members.values()))
        self.members = members
        self.own = first.own
        self.model = first.model
        self.binary = first.binary
        n = len(first.calibration)
        ranks = [p_values(member.calibration, member.calibration) * (n + 1) - 1 for member in members.values()]
        self.calibration = sum_of_logs([rank / (n + 1) for rank in ranks])
        self.key = " ".join(f"{name}:{member.key}" for name, member in members.items())

    def describe(self, pixels: Pixels) -> Columns:
        """Return the columns "score", the combined score, and the score, p-value and details of each member."""
        columns: Columns = {}
        for name, member in self.members.items():
            described = member.describe(pixels)
            columns[name] = described.pop("score")
            columns[f"{name}_p_value"] = p_values_or_nan(member.calibration, columns[name])
            columns |= {f"{name}_{detail}": values for detail, values in described.items()}
        return {"score": sum_of_logs([columns[f"{name}_p_value"] for name in self.members])} | columns

    def heat(self, pixels: Pixels) -> Heat:
        """Return how unusual each place of each image is, by the first score."""
        return next(iter(self.members.values())).heat(pixels)

    def preferred(self) -> dict[str, float]:
        """Return the constant images that `Detector.preferred` returns for each member, named by image and member."""
        found = {name: member.preferred() for name, member in self.members.items()}
        return {f"{image} ({name})": share for name, images in found.items() for image, share in images.items()}


def sum_of_logs(p: list[Float64[Tensor, " n"]]) -> Scores:
    """Return -sum log p of each image, over its p-values under several scores."""
    return -torch.stack(p).log().sum(0)


def p_values_or_nan(calibration: Scores, scores: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Return the conformal p-value of each score, or NaN where the score is NaN.

    So one image without a score does not fail the others.
    """
    missing = scores.isnan()
    return p_values(calibration, scores.masked_fill(missing, 0)).masked_fill(missing, math.nan)


def content_hashes(pixels: Pixels) -> Hashes:
    """Return a 64-bit hash of each image's pixels; the probability of a collision among n images is n^2 / 2^65."""
    hashes = [int.from_bytes(bytes.fromhex(content_hash(image)), signed=True) for image in pixels]
    return torch.tensor(hashes, dtype=torch.int64)


def warn_of_seen(judged: Detections, names: Sequence[str] = ()) -> None:
    """Log a warning if images were in the run's training or validation data, which makes their p-values invalid."""
    seen = judged.details.get("seen", judged.scores.new_zeros(len(judged.scores)))
    for part, use in (("train", "training"), ("val", "validation and calibration")):
        rows = (seen == SEEN.index(part)).nonzero()[:, 0].tolist()
        if rows:
            first = f" (first: {names[rows[0]]})" if names else ""
            line = "warning: %d of these %d images were used in %s%s: their p-values are invalid"
            log.warning(line, len(rows), len(seen), use, first)


def describe_pixels(model: LatentModel, score: Score, pixels: Pixels, *, binary: bool) -> Columns:
    """Return the table columns that a score computes for uint8 images, "score" first, with one value per image."""
    if not len(pixels):  # torch's densities fail on an empty batch; a blank image gives the names
        one = describe_pixels(model, score, pixels.new_zeros(1, *pixels.shape[1:]), binary=binary)
        return {name: values[:0] for name, values in one.items()}
    batches = track(pixels.split(BATCH), type(score).__name__)
    with evaluating(model):
        parts = [score.describe(model, prepared(part, binary=binary)) for part in batches]
    return {name: torch.cat([part[name] for part in parts]).double() for name in parts[0]}

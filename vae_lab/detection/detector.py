"""Detectors: an anomaly score with its calibration, which gives each image a p-value.

A score is made a p-value by its rank among those of held-out normal images, of the run's own validation part.
"""

import hashlib
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from vae_lab.data.binarize import binarized
from vae_lab.data.images import require_range, scaled
from vae_lab.detection.conformal import p_values, require_level, verdicts
from vae_lab.detection.metrics import CONSTANTS, constant_images, inverted
from vae_lab.detection.scores.anomaly import Score
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
"""What the column "seen" counts: images that are in neither part of the run's own, in the training or the validation
part."""


class Detections(NamedTuple):
    """What is said of each image.

    Attributes:
        scores: higher is stranger; nats, where the score has a unit.
        p_values: how likely a normal image is to look at least as strange.
        flagged: whether the p-value is at most alpha.
        details: what else there is to say, by name.
    """

    scores: Scores
    p_values: Float64[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    details: Columns


class Detector(ABC):
    """The role: describes images and knows how it describes held-out normal ones.

    Attributes:
        calibration: scores of held-out normal images.
        key: what the scores depend on.
        model: in evaluation mode; its reconstructions show where an image is strange.
        binary: whether the model takes zeros and ones only; an image's are then drawn from its own content.
        own: hashes of the images that the run was trained on and validated with, by part; see `content_hashes`.
    """

    calibration: Scores
    key: str
    model: LatentModel
    binary: bool
    own: dict[str, Hashes]

    @abstractmethod
    def describe(self, pixels: Pixels) -> Columns:
        """Return numbers for each image, which depend on that image alone; the first is "score"."""

    @abstractmethod
    def preferred(self) -> dict[str, float]:
        """Return the constant images that a score calls more normal than most normal images; see `inverted`."""

    def scores(self, pixels: Pixels) -> Scores:
        """Return the score of each image."""
        return self.describe(pixels)["score"]

    def examine(self, pixels: Pixels) -> Columns:
        """Return what `describe` does, and as "seen" whether the image is one of the run's own: a place in `SEEN`."""
        hashes = content_hashes(pixels)
        seen = torch.zeros(len(pixels), dtype=torch.float64)
        for part in reversed(SEEN[1:]):  # an image of both parts was trained on
            if part in self.own:
                seen[torch.isin(hashes, self.own[part])] = SEEN.index(part)
        return self.describe(pixels) | {"seen": seen}

    def judge(self, described: Columns, alpha: float) -> Detections:
        """Return p-values and verdicts of what `describe` returns.

        Raises:
            ValueError: if alpha is so small that nothing could be flagged.
        """
        require_level(len(self.calibration), alpha)
        details = dict(described)
        scores = details.pop("score")
        p = p_values(self.calibration, scores)
        return Detections(scores, p, verdicts(p, alpha), details)


class RunDetector(Detector):
    """One run and one score.

    Args:
        model: in evaluation mode.
        score: fitted.
        calibration: scores of held-out normal images.
        binary: whether the model takes zeros and ones only.
        key: what the scores depend on.
        own: hashes of the run's own images, by part.
    """

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
        """Return what the score says of each image."""
        return describe_pixels(self.model, self.score, pixels, binary=self.binary)

    def preferred(self) -> dict[str, float]:
        """Return the constant images that the score prefers."""
        return preferred_constants(self)


class EnsembleDetector(Detector):
    """Several runs on the same images, and one score made of the one that each gives.

    Args:
        members: one for each run.
        combine: makes one score of theirs.
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
        """Return the combined score of each image."""
        return {"score": self.combine(torch.stack([member.scores(pixels) for member in self.members]))}

    def preferred(self) -> dict[str, float]:
        """Return the constant images that the score prefers."""
        return preferred_constants(self)


class CombinedDetector(Detector):
    """Several scores side by side, and Fisher's sum of their log p-values, -sum log p, as one more.

    The p-values are not independent, so the sum has not Fisher's distribution; like any score it gets its p-value by
    its rank among normal images. Those are ranked among themselves; for sums that a new normal image is exchangeable
    with, it would have to be among them too. Without it their sums are larger, never smaller, so that what is promised
    of alpha still holds.

    Args:
        members: by name, calibrated on the same images.
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
        """Return the sum, and each score with its p-value and its details, of each image."""
        columns: Columns = {}
        for name, member in self.members.items():
            described = member.describe(pixels)
            columns[name] = described.pop("score")
            columns[f"{name}_p_value"] = where_numbers(member.calibration, columns[name])
            columns |= {f"{name}_{detail}": values for detail, values in described.items()}
        return {"score": sum_of_logs([columns[f"{name}_p_value"] for name in self.members])} | columns

    def preferred(self) -> dict[str, float]:
        """Return the constant images that the members prefer."""
        found = {name: member.preferred() for name, member in self.members.items()}
        return {f"{image} ({name})": share for name, images in found.items() for image, share in images.items()}


def sum_of_logs(p: list[Float64[Tensor, " n"]]) -> Scores:
    """Return -sum log p over the p-values of each image."""
    return -torch.stack(p).log().sum(0)


def where_numbers(calibration: Scores, scores: Float64[Tensor, " m"]) -> Float64[Tensor, " m"]:
    """Return the p-value of each score; NaN where that is no number, so that one image does not cost all others."""
    missing = scores.isnan()
    return p_values(calibration, scores.masked_fill(missing, 0)).masked_fill(missing, math.nan)


def preferred_constants(detector: Detector) -> dict[str, float]:
    """Return the constant images that a detector's score calls more normal than most normal images."""
    model = detector.model
    constants = constant_images(model.channels, model.image_size, model.image_size)
    found = detector.scores((constants * 255).round().to(torch.uint8))
    return inverted(detector.calibration, {name: found[i : i + 1] for i, name in enumerate(CONSTANTS)})


def prepared(pixels: Pixels, *, binary: bool) -> Float[Tensor, "n channels height width"]:
    """Return images as the model takes them; zeros and ones are drawn from each image's own content."""
    if binary:
        pixels = torch.stack([binarized(image, "detect", content_hash(image)) for image in pixels])
    return scaled(pixels)


def content_hash(image: UInt8[Tensor, "channels height width"]) -> str:
    """Return a hash of an image's pixels."""
    return hashlib.blake2b(image.contiguous().numpy().data, digest_size=8).hexdigest()


def content_hashes(pixels: Pixels) -> Hashes:
    """Return a hash of each image's pixels as a number; of n different images two agree with probability n^2 / 2^65."""
    hashes = [int.from_bytes(bytes.fromhex(content_hash(image)), signed=True) for image in pixels]
    return torch.tensor(hashes, dtype=torch.int64)


def warn_of_seen(judged: Detections, names: Sequence[str] = ()) -> None:
    """Log a warning if images are the run's own, for which a p-value means nothing.

    Args:
        judged: what was said of them.
        names: of the images, if they have any.
    """
    seen = judged.details.get("seen", judged.scores.new_zeros(len(judged.scores)))
    for part, done in (("train", "trained on"), ("val", "validated and calibrated with")):
        rows = (seen == SEEN.index(part)).nonzero()[:, 0].tolist()
        if rows:
            first = f" (first: {names[rows[0]]})" if names else ""
            line = "beware: %d of these %d images were %s%s: their p-values mean nothing"
            log.warning(line, len(rows), len(seen), done, first)


def describe_pixels(model: LatentModel, score: Score, pixels: Pixels, *, binary: bool) -> Columns:
    """Return what a score says of each image."""
    if not len(pixels):  # torch's densities take no empty batch; one image tells the names
        one = describe_pixels(model, score, pixels.new_zeros(1, *pixels.shape[1:]), binary=binary)
        return {name: values[:0] for name, values in one.items()}
    batches = track(pixels.split(BATCH), type(score).__name__)
    with evaluating(model):
        parts = [score.describe(model, prepared(part, binary=binary)) for part in batches]
    return {name: torch.cat([part[name] for part in parts]).double() for name in parts[0]}


def to_pixels(images: Tensor) -> Pixels:
    """Return images, pixels in [0, 1] or 0 to 255 as uint8, as uint8 on the CPU.

    Raises:
        ValueError: if they are neither, or not [n, channels, height, width].
    """
    require_range(images)
    images = images.detach().cpu()
    if images.dtype == torch.uint8:
        return images
    return (images * 255).round().to(torch.uint8)

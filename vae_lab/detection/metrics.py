"""Detection metrics: AUROC, average precision, FPR at 95 % TPR, with bootstrap intervals.

Higher scores are more anomalous, and anomalous images are the positives.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vae_lab.detection.conformal import require_scores
from vae_lab.errors import require_count
from vae_lab.intervals import Interval

Normal = Float[Tensor, " n"]
Anomalous = Float[Tensor, " m"]
Levels = Float64[Tensor, " levels"]
Counts = Float64[Tensor, "*replicates levels"]
"""Number of images at each level; the levels are the distinct scores of all images, highest first."""

CONSTANTS = {"black": 0.0, "grey": 0.5, "white": 1.0}
HELD = 2_000_000
"""Counts in memory at once, 16 MB."""


class Detection(NamedTuple):
    """AUROC, average precision and FPR at 95 % TPR, each with its bootstrap interval.

    Attributes:
        auroc: probability that an anomalous image scores above a normal one, where ties count half; chance is 0.5.
        average_precision: precision averaged over the anomalous images, with each one's score as the threshold; chance
            is the share of anomalous images, so compare only sets with equal shares.
        fpr95: share of normal images flagged by the highest threshold that flags 95 % of the anomalous ones.
    """

    auroc: Interval
    average_precision: Interval
    fpr95: Interval


class Curve(NamedTuple):
    """An ROC curve: the point (0, 0), then false and true positive rates at each distinct score, highest first."""

    false_positives: Float64[Tensor, " points"]
    true_positives: Float64[Tensor, " points"]


def detection(normal: Normal, anomalous: Anomalous, *, nreplicates: int, seed: int) -> Detection:
    """Return AUROC, average precision and FPR at 95 % TPR, each with its stratified bootstrap interval.

    The interval reaches from the 2.5th to the 97.5th percentile of the bootstrap replicates.

    A replicate resamples the normal and the anomalous images with replacement. With some hundreds of images, the
    intervals cover the true values in 91 to 95 of 100 cases; that of the average precision, with 100 images of each
    kind, in 90. With perfect separation the interval is a point.

    Args:
        normal: scores of normal images, preferably not used in training.
        anomalous: scores of anomalous images.
        nreplicates: number of replicates, usually 1,000.
        seed: seed of the replicates, which use their own generator; the order of the scores does not matter.

    Raises:
        ValueError: if there are no scores of one kind, or a score is NaN.
    """
    require_count("nreplicates", nreplicates)
    counts = _counts(normal, anomalous)
    values = [metric(*counts).item() for metric in METRICS]
    generator = torch.Generator().manual_seed(seed)
    chunk = max(1, HELD // len(counts[0]))
    found = []
    for start in range(0, nreplicates, chunk):
        drawn = [_resampled(kind, min(chunk, nreplicates - start), generator) for kind in counts]
        found.append(torch.stack([metric(*drawn) for metric in METRICS]))
    ends = torch.cat(found, 1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=1)
    return Detection(*map(Interval, values, *ends.tolist()))


def auroc(normal: Normal, anomalous: Anomalous) -> float:
    """Return the probability that an anomalous image scores above a normal one, where ties count half.

    Raises:
        ValueError: if there are no scores of one kind, or a score is NaN.
    """
    return _auroc(*_counts(normal, anomalous)).item()


def roc(normal: Normal, anomalous: Anomalous) -> Curve:
    """Return the ROC curve, with one point per distinct score after the point (0, 0).

    Raises:
        ValueError: if there are no scores of one kind, or a score is NaN.
    """
    shares = [kind.cumsum(0) / kind.sum() for kind in _counts(normal, anomalous)]
    return Curve(*(torch.cat([share.new_zeros(1), share]) for share in shares))


def constant_images(channels: int, height: int, width: int) -> Float[Tensor, "constants channels height width"]:
    """Return one constant image for each value of `CONSTANTS` (black, grey, white).

    Every score should call them anomalous.
    """
    values = torch.tensor(list(CONSTANTS.values()))
    return values[:, None, None, None].repeat(1, channels, height, width)


def inverted(calibration: Normal, probes: dict[str, Float[Tensor, " _"]]) -> dict[str, float]:
    """Return the share of normal images that score above each probe, by the probe's name, if the share exceeds 1/2.

    The share is the probability that a normal image scores strictly above a probe of that name. Only shares above 1/2
    are returned. Likelihoods have such an inversion because they rise as images get simpler: Nalisnick et al. 2019,
    https://arxiv.org/abs/1810.09136; Serra et al. 2020, https://arxiv.org/abs/1909.11480. A lower limit would give
    false warnings, as for black images beside thin digits; a higher one would miss scores at chance level.

    Args:
        calibration: scores of held-out normal images.
        probes: scores by name, each of a constant image (see `constant_images`) or of a set of simple images.

    Raises:
        ValueError: if a set of scores is empty, or a score is NaN.
    """
    require_scores(calibration, "calibration")
    for name, scores in probes.items():
        require_scores(scores, name)
    ordered = calibration.double().sort().values
    shares = {
        name: 1 - torch.searchsorted(ordered, scores.to(ordered), right=True).double().mean().item() / len(ordered)
        for name, scores in probes.items()
    }
    return {name: share for name, share in shares.items() if share > 1 / 2}


def _counts(normal: Normal, anomalous: Anomalous) -> tuple[Levels, Levels]:
    """Return the numbers of normal and of anomalous images at each distinct score, highest first, on the CPU."""
    require_scores(normal, "normal")
    require_scores(anomalous, "anomalous")
    both = torch.cat([normal.double().cpu(), anomalous.double().cpu()])
    values, levels = both.unique(return_inverse=True)
    parts = (len(values) - 1 - levels).split([len(normal), len(anomalous)])
    first, second = (torch.bincount(part, minlength=len(values)).double() for part in parts)
    return first, second


def _resampled(counts: Levels, nreplicates: int, generator: torch.Generator) -> Float64[Tensor, "replicates levels"]:
    """Return bootstrap replicates of the counts, each of n draws with replacement, where n is their sum."""
    n, nlevels = int(counts.sum()), len(counts)
    levels = torch.arange(nlevels).repeat_interleave(counts.long())
    drawn = levels[torch.randint(n, (nreplicates, n), generator=generator)]
    drawn += nlevels * torch.arange(nreplicates)[:, None]
    return torch.bincount(drawn.flatten(), minlength=nreplicates * nlevels).view(nreplicates, nlevels).double()


def _auroc(normal: Counts, anomalous: Counts) -> Float64[Tensor, "*replicates"]:
    """Return the share of (normal, anomalous) pairs whose anomalous image scores higher, where ties count half."""
    n, m = normal.sum(-1), anomalous.sum(-1)
    not_below = normal.cumsum(-1) - normal / 2
    return 1 - (anomalous * not_below).sum(-1) / (n * m)


def _average_precision(normal: Counts, anomalous: Counts) -> Float64[Tensor, "*replicates"]:
    """Return the sum over thresholds of precision times the increase of recall, without interpolation."""
    hits = anomalous.cumsum(-1)
    precision = hits / (hits + normal.cumsum(-1)).clamp(min=1)  # avoids 0 / 0 at levels that a replicate lacks
    return (anomalous * precision).sum(-1) / anomalous.sum(-1)


def _fpr95(normal: Counts, anomalous: Counts) -> Float64[Tensor, "*replicates"]:
    """Return the share of normal images at or above the highest score threshold that flags 95 % of anomalous ones."""
    needed = (95 * anomalous.sum(-1, keepdim=True) / 100).ceil()
    reached = torch.searchsorted(anomalous.cumsum(-1), needed)
    return (normal.cumsum(-1).gather(-1, reached) / normal.sum(-1, keepdim=True)).squeeze(-1)


METRICS = (_auroc, _average_precision, _fpr95)

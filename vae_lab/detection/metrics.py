"""Detection metrics: AUROC, average precision, FPR at 95 % TPR, with bootstrap intervals.

A higher score always means a stranger image, and the anomalous ones are the positives.
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
"""How often each level occurs; the levels are the distinct scores of both kinds, highest first."""

CONSTANTS = {"black": 0.0, "grey": 0.5, "white": 1.0}
HELD = 2_000_000
"""Counts held at once, 16 MB."""


class Detection(NamedTuple):
    """How well anomalous images are told from normal ones.

    Attributes:
        auroc: probability that an anomalous image scores above a normal one, a tie being half a success; 0.5 is chance.
        average_precision: precision averaged over the anomalous images, each at its own score as the threshold; chance
            is the share of anomalous images, so it cannot be compared between sets with different shares.
        fpr95: share of normal images flagged by the highest threshold that flags 95 % of the anomalous ones.
    """

    auroc: Interval
    average_precision: Interval
    fpr95: Interval


class Curve(NamedTuple):
    """Shares of normal and of anomalous images at or above each score, from the highest down, with (0, 0) before."""

    false_positives: Float64[Tensor, " points"]
    true_positives: Float64[Tensor, " points"]


def detection(normal: Normal, anomalous: Anomalous, *, nreplicates: int, seed: int) -> Detection:
    """Return the three numbers, each between the 2.5th and 97.5th percentile of stratified bootstrap replicates.

    A replicate draws as many normal and as many anomalous images as there are, with replacement. With some hundreds of
    images the true values are inside in 91 to 95 of 100 cases; the average precision's, with 100 of each kind, in 90.
    What the images never show no replicate can: with perfect separation the interval is a point.

    Args:
        normal: scores of normal images, best such as had no part in training.
        anomalous: scores of anomalous ones.
        nreplicates: draws, 1,000 as a rule.
        seed: of the draws, from a generator of their own. The order of the scores does not matter.

    Raises:
        ValueError: if there are no scores of one kind, or some are not numbers.
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
    """Return the probability that an anomalous image scores above a normal one, ties counting half, without interval.

    Raises:
        ValueError: as `detection` does.
    """
    return _auroc(*_counts(normal, anomalous)).item()


def roc(normal: Normal, anomalous: Anomalous) -> Curve:
    """Return the receiver operating characteristic, a point for each distinct score.

    Raises:
        ValueError: as `detection` does.
    """
    shares = [kind.cumsum(0) / kind.sum() for kind in _counts(normal, anomalous)]
    return Curve(*(torch.cat([share.new_zeros(1), share]) for share in shares))


def constant_images(channels: int, height: int, width: int) -> Float[Tensor, "constants channels height width"]:
    """Return an image of each of `CONSTANTS`, in that order: pictures of nothing, which no score should like."""
    values = torch.tensor(list(CONSTANTS.values()))
    return values[:, None, None, None].repeat(1, channels, height, width)


def inverted(calibration: Normal, probes: dict[str, Float[Tensor, " _"]]) -> dict[str, float]:
    """Return the probes that the score prefers to normal images, each with the share of normal images it outdoes.

    The share is the probability that a probe of that name scores below a normal image, strictly. Above 1/2 the score
    calls it more normal than most normal images are: a picture of nothing ought to be among the strangest. That happens
    to likelihoods, which rise as images get simpler: Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136; Serra et
    al. 2020, https://arxiv.org/abs/1909.11480. A lower bar would cry wolf, where black is close to a thin digit; a
    higher one would pass scores that cannot tell.

    Args:
        calibration: scores of held-out normal images.
        probes: scores by name, of one image, as those of `constant_images`, or of a set of simpler ones.

    Raises:
        ValueError: if there are no scores of some kind, or some are not numbers.
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
    """Return how often each level occurs among both, on the CPU."""
    require_scores(normal, "normal")
    require_scores(anomalous, "anomalous")
    both = torch.cat([normal.double().cpu(), anomalous.double().cpu()])
    values, levels = both.unique(return_inverse=True)
    parts = (len(values) - 1 - levels).split([len(normal), len(anomalous)])
    first, second = (torch.bincount(part, minlength=len(values)).double() for part in parts)
    return first, second


def _resampled(counts: Levels, nreplicates: int, generator: torch.Generator) -> Float64[Tensor, "replicates levels"]:
    """Return the counts of as many draws with replacement as one set of counts has in all."""
    n, nlevels = int(counts.sum()), len(counts)
    levels = torch.arange(nlevels).repeat_interleave(counts.long())
    drawn = levels[torch.randint(n, (nreplicates, n), generator=generator)]
    drawn += nlevels * torch.arange(nreplicates)[:, None]
    return torch.bincount(drawn.flatten(), minlength=nreplicates * nlevels).view(nreplicates, nlevels).double()


def _auroc(normal: Counts, anomalous: Counts) -> Float64[Tensor, "*replicates"]:
    """Return the share of pairs with the anomalous image above: at each level, all normal ones less those not below."""
    n, m = normal.sum(-1), anomalous.sum(-1)
    not_below = normal.cumsum(-1) - normal / 2
    return 1 - (anomalous * not_below).sum(-1) / (n * m)


def _average_precision(normal: Counts, anomalous: Counts) -> Float64[Tensor, "*replicates"]:
    """Return the sum of precision times gain in recall, without interpolation."""
    hits = anomalous.cumsum(-1)
    precision = hits / (hits + normal.cumsum(-1)).clamp(min=1)  # above the first draw nothing is flagged
    return (anomalous * precision).sum(-1) / anomalous.sum(-1)


def _fpr95(normal: Counts, anomalous: Counts) -> Float64[Tensor, "*replicates"]:
    """Return the share of normal images down to the level where the anomalous ones first reach 95 %."""
    needed = (95 * anomalous.sum(-1, keepdim=True) / 100).ceil()
    reached = torch.searchsorted(anomalous.cumsum(-1), needed)
    return (normal.cumsum(-1).gather(-1, reached) / normal.sum(-1, keepdim=True)).squeeze(-1)


METRICS = (_auroc, _average_precision, _fpr95)

"""Split-conformal p-values of anomaly scores.

Let n normal images be held out and scored. If a new image is normal too, its score is equally likely to have any of the
n + 1 ranks among theirs, whatever the model and the score. So the share of scores at least as high as its own, itself
included, stays at or below alpha with a probability of at most alpha: Bates et al. 2023,
https://arxiv.org/abs/2104.08279, after Vovk, Gammerman and Shafer 2005. Equal scores count as higher, which keeps this
true with ties.

The probability is over calibration sets as well as images. One calibration set serves for all images, and its own rate
of false alarms lies somewhat above or below alpha: `false_alarms` tells how far.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64
from scipy.stats import beta
from torch import Tensor

from vae_lab.errors import require_count, require_number
from vae_lab.intervals import Interval

Scores = Float[Tensor, " n"]
PValues = Float64[Tensor, " m"]


def p_values(calibration: Scores, scores: Float[Tensor, " m"]) -> PValues:
    """Return (1 + #{calibration score >= score}) / (n + 1) for each score, a multiple of 1/(n + 1), at most 1.

    An infinite score takes its place in the order like any other.

    Args:
        calibration: scores of n normal images, held out from training and from every choice of a setting.
        scores: of the images to be judged, higher = stranger.

    Raises:
        ValueError: if there are no calibration scores, or one of either kind is not a number.
    """
    require_scores(calibration, "calibration")
    require_scores(scores, "new", fewest=0)
    ordered = calibration.double().sort().values
    nbelow = torch.searchsorted(ordered, scores.to(ordered).contiguous())
    return (1 + len(ordered) - nbelow).double() / (1 + len(ordered))


def verdicts(p: PValues, alpha: float) -> Bool[Tensor, " m"]:
    """Return which images are flagged: those with p <= alpha, of normal images a share of alpha at most.

    Ask `require_level` first whether any p-value can be so small.

    Raises:
        ValueError: if alpha is not between 0 and 1, or a p-value is not a number.
    """
    require_alpha(alpha)
    if p.isnan().any():
        raise ValueError(f"{int(p.isnan().sum())} of {len(p)} p-values are not numbers; leave those images out.")
    return p <= alpha


def smallest_p_value(ncalibration: int) -> float:
    """Return the p-value of an image stranger than all calibration images, 1 / (n + 1)."""
    require_count("ncalibration", ncalibration)
    return 1 / (ncalibration + 1)


def require_level(ncalibration: int, alpha: float) -> None:
    """Raise ValueError if alpha is not between 0 and 1, or so small that nothing could ever be flagged."""
    require_alpha(alpha)
    smallest = smallest_p_value(ncalibration)
    if alpha < smallest:
        raise ValueError(
            f"alpha={alpha} would flag nothing: {ncalibration} calibration images give p-values of at least"
            f" {smallest:.3g}; choose a higher alpha, or calibrate with at least {math.ceil(1 / alpha) - 1} images."
        )


def false_alarms(ncalibration: int, alpha: float) -> Interval:
    """Return the share of normal images flagged at level alpha: its mean over calibration sets, and where 95 % lie.

    The share above the k-th highest of n continuous scores has the distribution Beta(k, n + 1 - k), that of an order
    statistic of uniform numbers; Vovk 2012, https://arxiv.org/abs/1209.2673, draws conclusions. The number flagged
    among m fresh images has its binomial spread on top.

    Raises:
        ValueError: as `require_level` does.
    """
    require_level(ncalibration, alpha)
    levels = torch.arange(1, ncalibration + 1, dtype=torch.float64) / (ncalibration + 1)  # as `p_values` divides
    k = int((levels <= alpha).sum())
    low, high = (float(beta.ppf(end, k, ncalibration + 1 - k)) for end in (0.025, 0.975))
    return Interval(k / (ncalibration + 1), low, high)


def require_scores(scores: Scores, kind: str, fewest: int = 1) -> None:
    """Raise ValueError if there are too few scores, or some are not numbers."""
    nmissing = int(scores.isnan().sum())
    if nmissing:
        raise ValueError(
            f"{nmissing} of {len(scores)} {kind} scores are not numbers; leave out what could not be read or scored."
        )
    if len(scores) < fewest:
        raise ValueError(f"there are no {kind} scores; at least {fewest} is needed.")


def require_alpha(alpha: object) -> None:
    """Raise ValueError unless alpha is between 0 and 1."""
    require_number("alpha", alpha, "(0, 1)", "; 0.05 flags one normal image in twenty")

"""Split-conformal p-values of anomaly scores.

Let n held-out normal images have scores. The score of a new normal image is equally likely to have any of the n + 1
ranks among them, for any model and any score. The p-value is the share of scores at least as high as the new one,
itself included. So it is at most alpha with a probability of at most alpha: Bates et al. 2023,
https://arxiv.org/abs/2104.08279, after Vovk, Gammerman and Shafer 2005. Ties count as higher, which keeps the bound.

The probability is over calibration sets and images. For the one calibration set that is used, the false alarm rate is
somewhat above or below alpha; see `false_alarms`.
"""

import math

import torch
from jaxtyping import Bool, Float, Float64
from scipy.stats import beta, false_discovery_control
from torch import Tensor

from vae_lab.errors import require_count, require_number
from vae_lab.intervals import Interval

Scores = Float[Tensor, " n"]
PValues = Float64[Tensor, " m"]


def p_values(calibration: Scores, scores: Float[Tensor, " m"]) -> PValues:
    """Return the conformal p-value (1 + #{calibration score >= score}) / (n + 1) of each new score.

    The p-values lie between 1 / (n + 1) and 1. Infinite scores are ordered like any others.

    Args:
        calibration: scores of n normal images, held out from training and from the choice of settings.
        scores: scores of new images; higher is more anomalous.

    Raises:
        ValueError: if there are no calibration scores, or a score is NaN.
    """
    require_scores(calibration, "calibration")
    require_scores(scores, "new", fewest=0)
    ordered = calibration.double().sort().values
    nbelow = torch.searchsorted(ordered, scores.to(ordered).contiguous())
    return (1 + len(ordered) - nbelow).double() / (1 + len(ordered))


def verdicts(p: PValues, alpha: float) -> Bool[Tensor, " m"]:
    """Return a mask that flags each image with p <= alpha: on average at most a share alpha of normal images.

    Call `require_level` first to check that a p-value can be as small as alpha.

    Raises:
        ValueError: if alpha is not between 0 and 1, or a p-value is NaN.
    """
    require_alpha(alpha)
    require_numbers(p)
    return p <= alpha


def discoveries(p: PValues, fdr: float) -> Bool[Tensor, " m"]:
    """Return a mask that flags images so that on average at most a share `fdr` of the flagged ones are normal.

    Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x: the k smallest of m p-values are
    flagged, for the largest k whose k-th smallest is at most fdr * k / m. It holds for conformal p-values although they
    share the calibration images, by Theorem 2 of Bates et al. 2023. The average of the share, which is 0 if none is
    flagged, is over calibration sets and batches.

    Raises:
        ValueError: if fdr is not between 0 and 1, or a p-value is NaN.
    """
    require_alpha(fdr, "fdr")
    require_numbers(p)
    return torch.from_numpy(false_discovery_control(p.numpy()) <= fdr)


def fewest_discoveries(ncalibration: int, nimages: int, fdr: float) -> int:
    """Return the least number of images that `discoveries` can flag: each would have the smallest p-value."""
    return max(1, math.ceil(nimages * smallest_p_value(ncalibration) / fdr - 1e-9))


def smallest_p_value(ncalibration: int) -> float:
    """Return the smallest p-value that n calibration images can give, 1 / (n + 1)."""
    require_count("ncalibration", ncalibration)
    return 1 / (ncalibration + 1)


def named_level(alpha: float, fdr: float | None) -> tuple[float, str]:
    """Return the level at which images are flagged and its name: fdr if it is given, else alpha."""
    return (alpha, "alpha") if fdr is None else (fdr, "fdr")


def require_level(ncalibration: int, alpha: float, name: str = "alpha") -> None:
    """Raise ValueError if alpha is outside (0, 1) or below the smallest p-value, 1 / (ncalibration + 1)."""
    require_alpha(alpha, name)
    smallest = smallest_p_value(ncalibration)
    if alpha < smallest:
        raise ValueError(
            f"{name}={alpha} would flag nothing: {ncalibration} calibration images give p-values of at least"
            f" {smallest:.3g}; choose a higher {name}, or calibrate with at least {math.ceil(1 / alpha) - 1} images."
        )


def false_alarms(ncalibration: int, alpha: float) -> Interval:
    """Return the mean and 95 % interval, over calibration sets, of the share of normal images flagged at alpha.

    The share above the k-th highest of n continuous scores has the distribution Beta(k, n + 1 - k), that of an order
    statistic of uniform numbers; see Vovk 2012, https://arxiv.org/abs/1209.2673. The number flagged among m new images
    has additional binomial variance.

    Raises:
        ValueError: if alpha is out of range; see `require_level`.
    """
    require_level(ncalibration, alpha)
    levels = torch.arange(1, ncalibration + 1, dtype=torch.float64) / (ncalibration + 1)  # as `p_values` divides
    k = int((levels <= alpha).sum())
    low, high = (float(beta.ppf(end, k, ncalibration + 1 - k)) for end in (0.025, 0.975))
    return Interval(k / (ncalibration + 1), low, high)


def require_scores(scores: Scores, kind: str, fewest: int = 1) -> None:
    """Raise ValueError if there are fewer than `fewest` scores, or a score is NaN."""
    nmissing = int(scores.isnan().sum())
    if nmissing:
        raise ValueError(f"{nmissing} of {len(scores)} {kind} scores are NaN; leave out images without a score.")
    if len(scores) < fewest:
        raise ValueError(f"there are no {kind} scores; at least {fewest} is needed.")


def require_numbers(p: PValues) -> None:
    """Raise ValueError if a p-value is NaN."""
    if p.isnan().any():
        raise ValueError(f"{int(p.isnan().sum())} of {len(p)} p-values are NaN; leave those images out.")


def require_alpha(alpha: object, name: str = "alpha") -> None:
    """Raise ValueError if alpha is not between 0 and 1."""
    meaning = {"alpha": "flags one normal image in twenty", "fdr": "allows one normal image in twenty flagged ones"}
    require_number(name, alpha, "(0, 1)", f"; 0.05 {meaning[name]}")

"""Power-law fits of cost against image size: cost = constant * k^exponent."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from vae_lab.intervals import t_factor


class PowerLaw(NamedTuple):
    """A fitted power law, cost = constant * size^exponent, with the interval of its exponent and its misfit.

    Attributes:
        exponent: slope of the line.
        low: lower end of the slope's confidence interval; NaN if there are too few measurements.
        high: upper end of the interval.
        constant: cost at size 1.
        misfit: largest relative distance of a size's cost from the line.
        last: slope between the two largest sizes.
    """

    exponent: float
    low: float
    high: float
    constant: float
    misfit: float
    last: float

    def at(self, size: float) -> float:
        """Return the fitted cost at a size."""
        return self.constant * size**self.exponent


def fit_power_law(sizes: Sequence[int], costs: Float64[Tensor, "repetitions sizes"], level: float = 0.95) -> PowerLaw:
    """Return the power law of costs against sizes, fitted by least squares to their logarithms.

    With several repetitions, the interval is Student's t interval for the mean of the repetitions' slopes, so that a
    machine that is slow during one repetition shifts the line but not its slope. It measures the precision of the
    slope; `misfit` measures the deviation from a power law. With one repetition, as for counted costs, the interval is
    that of a regression, which is wide if the growth is not a power law.

    Raises:
        ValueError: if there are fewer than two sizes, or a cost is not positive.
    """
    if len(set(sizes)) < 2 or len(set(sizes)) != len(sizes) or costs.shape[1] != len(sizes):
        raise ValueError(f"a power law needs a cost at each of two or more different sizes, not {list(sizes)}.")
    if not bool(((costs > 0) & costs.isfinite()).all()):
        raise ValueError("a power law needs costs above 0.")
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), costs.log()
    centred = x - x.mean()
    slopes = y @ centred / centred.square().sum()
    slope, middle = slopes.mean(), y.median(0).values
    intercept = (middle - slope * x).mean()
    distances = middle - intercept - slope * x
    if len(costs) > 1:
        error, freedom = slopes.std() / len(costs) ** 0.5, len(costs) - 1
    else:
        freedom = len(sizes) - 2
        error = (distances.square().sum() / max(freedom, 1) / centred.square().sum()).sqrt()
    reach = float(error) * t_factor(freedom, level)
    order = x.argsort()[-2:]
    return PowerLaw(
        exponent=float(slope),
        low=float(slope) - reach,
        high=float(slope) + reach,
        constant=math.exp(float(intercept)),
        misfit=float(distances.exp().sub(1).abs().max()),
        last=float(middle[order].diff() / x[order].diff()),
    )

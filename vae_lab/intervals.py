"""Estimates with a 95 % confidence interval or a standard error."""

from collections.abc import Sequence
from math import nan, sqrt
from statistics import fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """An estimate and the two ends of its 95 % confidence interval, which are NaN if the data do not determine them."""

    value: float
    low: float
    high: float


class Mean(NamedTuple):
    """A mean over images or random draws, and its standard error."""

    value: float
    standard_error: float


def t_factor(freedom: int | float, level: float = 0.95) -> float:
    """Return the half-width, in standard errors, of Student's t interval for `freedom` degrees of freedom; NaN for 0.

    Student 1908, The probable error of a mean, https://doi.org/10.1093/biomet/6.1.1
    """
    from scipy.special import stdtrit  # takes a fifth of a second

    return float(stdtrit(freedom, 0.5 + level / 2)) if freedom > 0 else nan


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean of roughly normal values with its 95 % interval by Student's t; NaN ends for one value."""
    mean, n = fmean(values), len(values)
    reach = t_factor(n - 1) * stdev(values) / sqrt(n) if n > 1 else nan
    return Interval(mean, mean - reach, mean + reach)

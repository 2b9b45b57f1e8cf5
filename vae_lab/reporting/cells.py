"""Runs that differ in their seed alone, taken together."""

from collections.abc import Sequence
from typing import NamedTuple

from vae_lab.reporting.settings import ABSENT, Settings, labelled
from vae_lab.reporting.trials import COMPLETED, Trial


class Cell(NamedTuple):
    """Runs with the same settings.

    Attributes:
        settings: those that vary between cells.
        trials: all of them, also those without a result.
        values: the metric, one value for each seed.
        mean: over seeds.
        low: of the 95 % interval of the mean; None with fewer than two seeds.
        high: of that.
    """

    settings: Settings
    trials: list[Trial]
    values: list[float]
    mean: float | None
    low: float | None
    high: float | None

    @property
    def label(self) -> str:
        """The settings in one line."""
        return labelled(self.settings) or "all runs"


class Interval(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float | None
    low: float | None
    high: float | None


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean with the 95 % interval by Student's t, for values that are roughly normal.

    Student 1908, The probable error of a mean, https://doi.org/10.1093/biomet/6.1.1
    """
    from scipy.special import stdtrit  # takes a fifth of a second

    n = len(values)
    if n == 0:
        return Interval(None, None, None)
    mean = sum(values) / n
    if n == 1:
        return Interval(mean, None, None)
    error = (sum((value - mean) ** 2 for value in values) / (n - 1) / n) ** 0.5
    reach = float(stdtrit(n - 1, 0.975)) * error
    return Interval(mean, mean - reach, mean + reach)


def grouped(trials: Sequence[Trial], keys: Sequence[str], metric: str, *, lowest: bool = True) -> list[Cell]:
    """Return the cells, best first, those without a result last; runs whose settings are unknown are in none.

    Args:
        trials: all runs.
        keys: the settings that vary.
        metric: what is averaged.
        lowest: whether less is better.
    """
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        if trial.settings:
            groups.setdefault(tuple(trial.chosen(keys).values()), []).append(trial)
    cells = [
        Cell(some[0].chosen(keys), some, values, *t_interval(values))
        for some in groups.values()
        for values in [per_seed(some, metric)]
    ]
    return sorted(cells, key=lambda cell: (cell.mean is None, (cell.mean or 0.0) * (1 if lowest else -1)))


def per_seed(trials: Sequence[Trial], metric: str) -> list[float]:
    """Return the metric of each seed; a seed that was run twice counts once, as training repeats itself bit for bit."""
    seeds: dict[str, list[float]] = {}
    for trial in trials:
        value = result(trial, metric)
        if value is not None:
            seeds.setdefault(trial.seed or trial.name, []).append(value)
    return [sum(values) / len(values) for values in seeds.values()]


def result(trial: Trial, metric: str) -> float | None:
    """Return a completed run's metric."""
    return trial.metrics.get(metric) if trial.status == COMPLETED else None


def verdict(cells: Sequence[Cell], metric: str) -> str:
    """Return in words which cell is best, and whether the seeds tell it from the next."""
    ranked = [cell for cell in cells if cell.mean is not None]
    if not ranked:
        return f"No run has finished with {metric}."
    best = ranked[0]
    if len(ranked) == 1:
        return f"{best.label}: {metric} {spoken(best)}."
    second = ranked[1]
    text = f"Best of {len(ranked)}: {best.label} with {metric} {spoken(best)}. "
    text += f"Next: {second.label} with {spoken(second)}. "
    if None in (best.low, second.low):
        return text + "A single seed has no interval: more seeds would tell whether the difference is one."
    apart = max(best.low, second.low) > min(best.high, second.high)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if apart:
        return text + "The two intervals do not overlap."
    return text + "The two intervals overlap: these seeds do not tell which is better."


def spoken(cell: Cell) -> str:
    """Return a cell's result in words."""
    if cell.low is None:
        return f"{decimal(cell.mean)} (one seed)"
    return f"{decimal(cell.mean)} (95 % interval {decimal(cell.low)} to {decimal(cell.high)}, {len(cell.values)} seeds)"


def decimal(value: float | None) -> str:
    """Return a number with as many places as tell something: 5 digits, but never fewer than the whole ones."""
    if value is None:
        return ABSENT
    return f"{value:.2f}" if 10 <= abs(value) < 1e7 else f"{value:.4g}"


def cautions(trials: Sequence[Trial], keys: Sequence[str]) -> list[str]:
    """Return sentences on what keeps the runs' results from being compared."""
    done = [trial for trial in trials if trial.status == COMPLETED]
    found: list[str] = []
    if len({trial.provenance.get("test images") for trial in done}) > 1:
        found.append("The runs were tested on different images: compare only those of the same data.")
    if "likelihood" in keys:
        found.append("The likelihoods differ: nats of a density over real numbers compare with none but its own.")
    unknown = sum(not trial.settings for trial in trials)
    if unknown:
        found.append(f"{unknown} of {len(trials)} runs are in no cell, because their settings are not known.")
    return found

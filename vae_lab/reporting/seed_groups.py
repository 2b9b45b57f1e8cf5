"""Groups of runs that differ only in their seed, with mean and confidence interval."""

from collections.abc import Sequence
from math import isnan, nan, sqrt
from statistics import fmean, variance
from typing import NamedTuple

from vae_lab.intervals import Interval, t_factor, t_interval
from vae_lab.reporting.flat_config import ABSENT, Settings, labelled
from vae_lab.reporting.ranking import beside, caution, direction, measured_on, part_of, ranked_sets
from vae_lab.reporting.run_records import COMPLETED, RunRecord


class SeedGroup(NamedTuple):
    """Runs with the same settings.

    Attributes:
        settings: those that vary between cells.
        trials: all of them, also those without a result.
        by_seed: the metric of each seed.
        mean: over seeds; None without a result.
        interval: of the mean; None with fewer than two seeds.
        images: the digest of the images that the metric is measured on; only cells of the same are compared.
        tested: the mean of the test metric that stands beside a validation metric, or None.
    """

    settings: Settings
    trials: list[RunRecord]
    by_seed: dict[str, float]
    mean: float | None
    interval: Interval | None
    images: str = ""
    tested: float | None = None

    @property
    def label(self) -> str:
        """The settings in one line."""
        return labelled(self.settings) or "all runs"

    @property
    def values(self) -> list[float]:
        """The metric, one value for each seed."""
        return [*self.by_seed.values()]


def difference(first: SeedGroup, second: SeedGroup) -> tuple[Interval, int]:
    """Return by how much the second group's mean is above the first's, and how many seeds the two have in common.

    Two seeds or more that both have are compared in pairs, by Student's t of their differences; otherwise the groups
    are independent: Welch 1947, The generalization of Student's problem, https://doi.org/10.1093/biomet/34.1-2.28
    """
    common = [seed for seed in first.by_seed if seed in second.by_seed]
    if len(common) > 1:
        return t_interval([second.by_seed[seed] - first.by_seed[seed] for seed in common]), len(common)
    mean = fmean(second.values) - fmean(first.values)
    if min(len(first.values), len(second.values)) < 2:
        return Interval(mean, nan, nan), len(common)
    squares = [variance(group.values) / len(group.values) for group in (first, second)]
    parts = sum(square**2 / (len(group.values) - 1) for square, group in zip(squares, (first, second), strict=True))
    reach = t_factor(sum(squares) ** 2 / parts) * sqrt(sum(squares)) if parts else 0.0
    return Interval(mean, mean - reach, mean + reach), len(common)


def grouped(trials: Sequence[RunRecord], keys: Sequence[str], metric: str, *, lowest: bool = True) -> list[SeedGroup]:
    """Return the cells, best first, those without a result last; runs whose settings are unknown are in none.

    Cells that are measured on the same images stand together.

    Args:
        trials: all runs.
        keys: the settings that vary.
        metric: what is averaged.
        lowest: whether less is better.
    """
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for trial in trials:
        if trial.settings:
            groups.setdefault(tuple(trial.chosen(keys).values()), []).append(trial)
    cells = [
        SeedGroup(
            some[0].chosen(keys),
            some,
            by_seed,
            mean_of(by_seed),
            t_interval([*by_seed.values()]) if len(by_seed) > 1 else None,
            images=measured_on(some[0], metric),
            tested=mean_of(per_seed(some, beside(metric))),
        )
        for some in groups.values()
        for by_seed in [per_seed(some, metric)]
    ]
    sets = list(dict.fromkeys(cell.images for cell in cells))
    sign = 1 if lowest else -1
    return sorted(cells, key=lambda cell: (cell.mean is None, sets.index(cell.images), (cell.mean or 0.0) * sign))


def mean_of(by_seed: dict[str, float]) -> float | None:
    """Return the mean over seeds, or None without a result."""
    return fmean(by_seed.values()) if by_seed else None


def per_seed(trials: Sequence[RunRecord], metric: str) -> dict[str, float]:
    """Return the metric of each seed; a seed that was run twice counts once, as training repeats itself bit for bit."""
    seeds: dict[str, list[float]] = {}
    for trial in trials:
        value = result(trial, metric)
        if value is not None:
            seeds.setdefault(trial.seed or trial.name, []).append(value)
    return {seed: sum(values) / len(values) for seed, values in seeds.items()}


def result(trial: RunRecord, metric: str) -> float | None:
    """Return a completed run's metric."""
    return trial.metrics.get(metric) if trial.status == COMPLETED else None


def verdicts(cells: Sequence[SeedGroup], metric: str, *, lowest: bool = True) -> list[str]:
    """Return the verdict on the cells of each set of images that the metric is measured on."""
    sets = list(dict.fromkeys(cell.images for cell in cells if cell.mean is not None))
    if len(sets) < 2:
        return [verdict(cells, metric, lowest=lowest)]
    groups = [[cell for cell in cells if cell.images == one] for one in sets]
    return [
        f"On the {part_of(metric)} images {one[:8] or 'that are not known'}: {verdict(some, metric, lowest=lowest)}"
        for one, some in zip(sets, groups, strict=True)
    ]


def verdict(cells: Sequence[SeedGroup], metric: str, *, lowest: bool = True) -> str:
    """Return in words which cell is best, which way is better, and whether the seeds tell it from the next."""
    ranked = [cell for cell in cells if cell.mean is not None]
    if not ranked:
        return f"No run has finished with {metric}."
    best = ranked[0]
    if len(ranked) == 1:
        return f"{best.label}: {metric} {spoken(best)}{tested(best, metric)}."
    second = ranked[1]
    text = f"Best of {len(ranked)}: {best.label} with {metric} {spoken(best)}{tested(best, metric)}; "
    text += f"{direction(lowest=lowest)}. Next: {second.label} with {spoken(second)}{tested(second, metric)}. "
    found, ncommon = difference(best, second)
    mean, low, high = found
    if isnan(low):
        return text + "A single seed has no interval: more seeds would tell whether the difference is one."
    how = f"in pairs over {ncommon} seeds that both have" if ncommon > 1 else "of seeds that they do not share"
    text += f"The next minus the best is {decimal(mean)} (95 % interval {spanned(found)}, {how}): "
    side = low if (second.mean or 0.0) > (best.mean or 0.0) else -high  # the end that is nearer to no difference
    return text + ("the seeds tell the two apart." if side > 0 else "these seeds do not tell which is better.")


def tested(cell: SeedGroup, metric: str) -> str:
    """Return in words the test metric of a cell that is ranked by its validation metric; "" if there is none."""
    return "" if cell.tested is None else f", {beside(metric)} {decimal(cell.tested)}"


def spoken(cell: SeedGroup) -> str:
    """Return a cell's result in words."""
    if cell.interval is None:
        return f"{decimal(cell.mean)} (one seed)"
    return f"{decimal(cell.mean)} (95 % interval {spanned(cell.interval)}, {len(cell.values)} seeds)"


def spanned(interval: Interval | None) -> str:
    """Return the ends of an interval in words."""
    return ABSENT if interval is None else f"{decimal(interval.low)} to {decimal(interval.high)}"


def decimal(value: float | None) -> str:
    """Return a number with as many places as tell something: 5 digits, but never fewer than the whole ones."""
    if value is None:
        return ABSENT
    return f"{value:.2f}" if 10 <= abs(value) < 1e7 else f"{value:.4g}"


def cautions(trials: Sequence[RunRecord], keys: Sequence[str], metric: str) -> list[str]:
    """Return sentences on what keeps the runs' results from being compared."""
    found = [caution(metric)] if caution(metric) else []
    nsets = len(ranked_sets(trials, metric))
    if nsets > 1:
        found.append(f"{metric} was measured on {nsets} sets of images, which do not compare: each ranks by itself.")
    elif len({trial.settings.get("images") for trial in trials if trial.status == COMPLETED and trial.settings}) > 1:
        found.append("The runs were trained on different images, and no mean is taken over those.")
    if "likelihood" in keys:
        found.append("The likelihoods differ: nats of a density over real numbers compare with none but its own.")
    unknown = sum(not trial.settings for trial in trials)
    if unknown:
        found.append(f"{unknown} of {len(trials)} runs are in no cell, because their settings are not known.")
    return found

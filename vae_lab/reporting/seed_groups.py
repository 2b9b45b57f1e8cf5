"""Groups of runs that differ only in their seed, with mean and confidence interval."""

from collections.abc import Sequence
from math import isnan, nan, sqrt
from statistics import fmean, variance
from typing import NamedTuple

from vae_lab.intervals import Interval, t_factor, t_interval
from vae_lab.reporting.flat_config import ABSENT, Settings, labelled
from vae_lab.reporting.ranking import measured_on, ranked_sets
from vae_lab.reporting.run_records import COMPLETED, RunRecord
from vae_lab.runs.metrics import beside, caution, direction, part_of


class SeedGroup(NamedTuple):
    """Runs with the same settings except for the seed.

    Attributes:
        settings: the settings that vary between groups.
        trials: all runs of the group, also those without a result.
        by_seed: the metric of each seed.
        mean: mean over seeds; None without a result.
        interval: confidence interval of the mean; None with fewer than two seeds.
        images: digest of the images that the metric is measured on; groups are comparable only if it is equal.
        tested: mean of the test metric that corresponds to a validation metric, or None.
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
        """The settings of the group in one line."""
        return labelled(self.settings) or "all runs"

    @property
    def values(self) -> list[float]:
        """The values of the metric, one for each seed."""
        return [*self.by_seed.values()]


def difference(first: SeedGroup, second: SeedGroup) -> tuple[Interval, int]:
    """Return the second group's mean minus the first's, as an interval, and the number of seeds in both.

    With two or more common seeds, this is Student's paired t interval over them. Otherwise it is Welch's interval for
    independent groups: Welch 1947, The generalization of Student's problem, https://doi.org/10.1093/biomet/34.1-2.28
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
    """Return the runs grouped by the settings `keys`, best group first, groups without a result last.

    Runs with unknown settings are omitted. Groups that are measured on the same images are adjacent.
    """
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for trial in trials:
        if trial.settings:
            groups.setdefault(tuple(trial.chosen(keys).values()), []).append(trial)
    cells = [
        SeedGroup(
            group[0].chosen(keys),
            group,
            by_seed,
            mean_of(by_seed),
            t_interval([*by_seed.values()]) if len(by_seed) > 1 else None,
            images=measured_on(group[0], metric),
            tested=mean_of(per_seed(group, beside(metric))),
        )
        for group in groups.values()
        for by_seed in [per_seed(group, metric)]
    ]
    sets = list(dict.fromkeys(cell.images for cell in cells))
    sign = 1 if lowest else -1
    return sorted(cells, key=lambda cell: (cell.mean is None, sets.index(cell.images), (cell.mean or 0.0) * sign))


def mean_of(by_seed: dict[str, float]) -> float | None:
    """Return the mean over seeds, or None without seeds."""
    return fmean(by_seed.values()) if by_seed else None


def per_seed(trials: Sequence[RunRecord], metric: str) -> dict[str, float]:
    """Return the metric by seed; runs with the same seed count once, because training is reproducible."""
    seeds: dict[str, list[float]] = {}
    for trial in trials:
        value = result(trial, metric)
        if value is not None:
            seeds.setdefault(trial.seed or trial.name, []).append(value)
    return {seed: sum(values) / len(values) for seed, values in seeds.items()}


def result(trial: RunRecord, metric: str) -> float | None:
    """Return a run's value of the metric, or None if the run is not completed or lacks the metric."""
    return trial.metrics.get(metric) if trial.status == COMPLETED else None


def verdicts(cells: Sequence[SeedGroup], metric: str, *, lowest: bool = True) -> list[str]:
    """Return one verdict for each different set of images on which the metric was measured."""
    sets = list(dict.fromkeys(cell.images for cell in cells if cell.mean is not None))
    if len(sets) < 2:
        return [verdict(cells, metric, lowest=lowest)]
    groups = [[cell for cell in cells if cell.images == one] for one in sets]
    return [
        f"On the {part_of(metric)} images {digest[:8] or '(unknown)'}: {verdict(group, metric, lowest=lowest)}"
        for digest, group in zip(sets, groups, strict=True)
    ]


def verdict(cells: Sequence[SeedGroup], metric: str, *, lowest: bool = True) -> str:
    """Return a sentence on the best group and on whether its difference to the second is significant."""
    ranked = [cell for cell in cells if cell.mean is not None]
    if not ranked:
        return f"No completed run has {metric}."
    best = ranked[0]
    if len(ranked) == 1:
        return f"{best.label}: {metric} {spoken(best)}{tested(best, metric)}."
    second = ranked[1]
    text = f"Best of {len(ranked)}: {best.label} with {metric} {spoken(best)}{tested(best, metric)}; "
    text += f"{direction(lowest=lowest)}. Second: {second.label} with {spoken(second)}{tested(second, metric)}. "
    found, ncommon = difference(best, second)
    mean, low, high = found
    if isnan(low):
        return text + "One seed gives no interval; train more seeds to test the difference."
    how = f"paired over {ncommon} common seeds" if ncommon > 1 else "unpaired"
    text += f"Second minus best is {decimal(mean)} (95 % interval {spanned(found)}, {how}): "
    side = low if (second.mean or 0.0) > (best.mean or 0.0) else -high  # the end of the interval nearer to 0
    return text + ("the difference is significant." if side > 0 else "the difference is not significant.")


def tested(cell: SeedGroup, metric: str) -> str:
    """Return a group's test metric as text if runs are ranked by the validation metric, else ""."""
    return "" if cell.tested is None else f", {beside(metric)} {decimal(cell.tested)}"


def spoken(cell: SeedGroup) -> str:
    """Return a group's mean with its interval and number of seeds as text."""
    if cell.interval is None:
        return f"{decimal(cell.mean)} (one seed)"
    return f"{decimal(cell.mean)} (95 % interval {spanned(cell.interval)}, {len(cell.values)} seeds)"


def spanned(interval: Interval | None) -> str:
    """Return an interval as text, such as "1.2 to 3.4"; a dash for None."""
    return ABSENT if interval is None else f"{decimal(interval.low)} to {decimal(interval.high)}"


def decimal(value: float | None) -> str:
    """Return a number as text: with two decimals from 10 to 1e7, else four significant digits; a dash for None."""
    if value is None:
        return ABSENT
    return f"{value:.2f}" if 10 <= abs(value) < 1e7 else f"{value:.4g}"


def cautions(trials: Sequence[RunRecord], keys: Sequence[str], metric: str) -> list[str]:
    """Return sentences that warn of results that are biased or not comparable."""
    found = [caution(metric)] if caution(metric) else []
    nsets = len(ranked_sets(trials, metric))
    if nsets > 1:
        found.append(f"{metric} was measured on {nsets} sets of images, which are ranked separately.")
    elif len({trial.settings.get("images") for trial in trials if trial.status == COMPLETED and trial.settings}) > 1:
        found.append("The runs were trained on different images; no mean is taken over different images.")
    if "likelihood" in keys:
        found.append("The likelihoods differ; nats of different likelihoods are not comparable if one is a density.")
    unknown = sum(not trial.settings for trial in trials)
    if unknown:
        found.append(f"{unknown} of {len(trials)} runs are in no group, because their settings are unknown.")
    return found

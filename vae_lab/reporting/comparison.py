"""Differences between two runs."""

from typing import NamedTuple

from vae_lab.reporting.flat_config import ABSENT, shown, varied_keys
from vae_lab.reporting.run_records import RunRecord


class Difference(NamedTuple):
    """The key and the two values of a setting that differs between two runs."""

    key: str
    first: str
    second: str


class MetricPair(NamedTuple):
    """The name of a metric and its values in two runs."""

    key: str
    first: float
    second: float

    @property
    def change(self) -> float:
        """The second value minus the first."""
        return self.second - self.first


def setting_differences(first: RunRecord, second: RunRecord) -> list[Difference]:
    """Return the settings and facts of provenance that differ between two runs, except the run folder."""
    keys = varied_keys([first.settings, second.settings], ["folder"])
    settings = [Difference(key, *(shown(trial.chosen([key])[key]) for trial in (first, second))) for key in keys]
    origins = dict.fromkeys([*first.provenance, *second.provenance])
    made = [Difference(key, first.provenance.get(key, ABSENT), second.provenance.get(key, ABSENT)) for key in origins]
    return settings + [difference for difference in made if difference.first != difference.second]


def metric_pairs(first: RunRecord, second: RunRecord) -> list[MetricPair]:
    """Return the metrics and times that both runs have, test metrics first."""
    values: list[dict[str, float]] = []
    for trial in (first, second):
        times = {"seconds": trial.seconds, "images_per_second": trial.images_per_second}
        values.append(trial.metrics | {key: x for key, x in times.items() if x is not None})
    shared = sorted(values[0].keys() & values[1].keys(), key=lambda key: (not key.startswith("test/"), key))
    return [MetricPair(key, values[0][key], values[1][key]) for key in shared]

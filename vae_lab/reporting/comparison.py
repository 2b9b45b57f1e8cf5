"""A comparison of two runs."""

from typing import NamedTuple

from vae_lab.reporting.flat_config import ABSENT, shown, varied_keys
from vae_lab.reporting.run_records import RunRecord


class Difference(NamedTuple):
    """A setting that two runs do not share."""

    key: str
    first: str
    second: str


class MetricPair(NamedTuple):
    """A number that two runs have both."""

    key: str
    first: float
    second: float

    @property
    def change(self) -> float:
        """Second minus first."""
        return self.second - self.first


def setting_differences(first: RunRecord, second: RunRecord) -> list[Difference]:
    """Return which settings, and what else of their making, two runs do not share; their folders do not count."""
    keys = varied_keys([first.settings, second.settings], ["folder"])
    pairs = [Difference(key, *(shown(trial.chosen([key])[key]) for trial in (first, second))) for key in keys]
    made = dict.fromkeys([*first.provenance, *second.provenance])
    made_of = [Difference(key, first.provenance.get(key, ABSENT), second.provenance.get(key, ABSENT)) for key in made]
    return pairs + [difference for difference in made_of if difference.first != difference.second]


def metric_pairs(first: RunRecord, second: RunRecord) -> list[MetricPair]:
    """Return the numbers that both runs have, those of the test first."""
    values = [
        trial.metrics | {key: x for key, x in timing(trial).items() if x is not None} for trial in (first, second)
    ]
    shared = sorted(values[0].keys() & values[1].keys(), key=lambda key: (not key.startswith("test/"), key))
    return [MetricPair(key, values[0][key], values[1][key]) for key in shared]


def timing(trial: RunRecord) -> dict[str, float | None]:
    """Return how long a run took, and how fast it was."""
    return {"seconds": trial.seconds, "images_per_second": trial.images_per_second}

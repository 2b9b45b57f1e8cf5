"""The metric that ranks runs: which runs it can compare."""

from collections.abc import Sequence

from vae_lab.reporting.run_records import COMPLETED, RunRecord
from vae_lab.runs.identity import PROTOCOL_WITHOUT_EFFECT, describe_changes, differences
from vae_lab.runs.metrics import part_of


def measured_on(trial: RunRecord, metric: str) -> str:
    """Return the digest of the images on which a run's metric is measured; "" if it is unknown."""
    return trial.images.get(part_of(metric), "")


def ranked_sets(trials: Sequence[RunRecord], metric: str) -> list[str]:
    """Return the distinct digests of the images on which completed runs measured the metric."""
    found = [measured_on(trial, metric) for trial in trials if trial.status == COMPLETED and metric in trial.metrics]
    return list(dict.fromkeys(found))


def check_protocols(trials: Sequence[RunRecord], metric: str) -> None:
    """Raise ValueError if two runs measured a metric on the same images with different evaluation settings."""
    name = metric.partition("/")[0]
    first: dict[str, RunRecord] = {}
    for trial in trials:
        if trial.status != COMPLETED or metric not in trial.metrics or name not in trial.protocols:
            continue
        other = first.setdefault(measured_on(trial, metric), trial)
        own = (*PROTOCOL_WITHOUT_EFFECT, "run", "weights")
        changes = differences(other.protocols[name], trial.protocols[name], own)
        if changes:
            raise ValueError(
                f"metric={metric} was measured with different settings in {other.name} and (here) {trial.name}:"
                f" {describe_changes(changes)}; evaluate both with the same settings, or rank by another metric."
            )

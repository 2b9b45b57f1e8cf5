"""The metric that ranks runs, its direction, and which runs it can compare."""

from collections.abc import Sequence

from vae_lab.reporting.run_records import COMPLETED, PARTS, RunRecord
from vae_lab.runs.identity import PROTOCOL_WITHOUT_EFFECT, describe_changes, differences

VALIDATION, TEST = "val/", "test/"


def direction(*, lowest: bool) -> str:
    """Return in words which way is better."""
    return "lower is better" if lowest else "higher is better"


def beside(metric: str) -> str:
    """Return the test metric to show beside a validation metric that ranks; "" for other metrics."""
    return f"{TEST}{metric.removeprefix(VALIDATION)}" if metric.startswith(VALIDATION) else ""


def caution(metric: str) -> str:
    """Return a sentence of warning if the test set would choose what it then judges; "" if it would not."""
    if part_of(metric) != "test":
        return ""
    remedy = metric.replace("test", "val", 1)
    return (
        f"{metric} is of the test set, and runs that are chosen by it look better than they are: choose by {remedy},"
        " and report the test number of what was chosen."
    )


def part_of(metric: str) -> str:
    """Return the part of the images that a metric is measured on: train, val or test; "" if its name does not say."""
    part = metric.partition("/")[0].removeprefix("evaluation-")
    return part if part in PARTS else ""


def measured_on(trial: RunRecord, metric: str) -> str:
    """Return the digest of the images that a run's metric is measured on; "" if it is not known."""
    return trial.images.get(part_of(metric), "")


def ranked_sets(trials: Sequence[RunRecord], metric: str) -> list[str]:
    """Return the digests of the images that the metric of completed runs is measured on; each set ranks by itself."""
    found = [measured_on(trial, metric) for trial in trials if trial.status == COMPLETED and metric in trial.metrics]
    return list(dict.fromkeys(found))


def check_protocols(trials: Sequence[RunRecord], metric: str) -> None:
    """Raise ValueError if a metric of evaluations was measured by different protocols on the same images."""
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
                f"metric={metric} was measured in other ways in {other.name} and (here) {trial.name}:"
                f" {describe_changes(changes)}; evaluate both alike, or rank by another metric."
            )

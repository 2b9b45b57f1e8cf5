"""The metric that ranks runs: its direction, and which runs it can compare."""

from collections.abc import Sequence

from vae_lab.reporting.run_records import COMPLETED, PARTS, RunRecord
from vae_lab.runs.identity import PROTOCOL_WITHOUT_EFFECT, describe_changes, differences

VALIDATION, TEST = "val/", "test/"


def direction(*, lowest: bool) -> str:
    """Return "lower is better" if `lowest`, else "higher is better"."""
    return "lower is better" if lowest else "higher is better"


def beside(metric: str) -> str:
    """Return the test metric that corresponds to a validation metric; "" for other metrics."""
    return f"{TEST}{metric.removeprefix(VALIDATION)}" if metric.startswith(VALIDATION) else ""


def caution(metric: str) -> str:
    """Return a warning if runs are ranked by a test metric; "" otherwise."""
    if part_of(metric) != "test":
        return ""
    remedy = metric.replace("test", "val", 1)
    return (
        f"{metric} is measured on the test set, and selecting runs by it biases their test results; select by {remedy},"
        " and report the test result of the selected run."
    )


def part_of(metric: str) -> str:
    """Return the split that a metric is measured on: train, val or test; "" if its name has none of them."""
    part = metric.partition("/")[0].removeprefix("evaluation-")
    return part if part in PARTS else ""


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

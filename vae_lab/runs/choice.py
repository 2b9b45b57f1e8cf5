"""The run that `run=` chooses: the last one, the best one, one by its name, or the only one in a folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from vae_lab.errors import DataError
from vae_lab.runs.labels import BEST, LAST
from vae_lab.runs.listing import MARKS, Run, find_runs, inspect_run, list_runs
from vae_lab.system.config_dir import CONF
from vae_lab.system.error_text import nearest
from vae_lab.system.folders import expanded, seen_from_here

log = logging.getLogger(__name__)

ROOT = "outputs"
"""The folder, in the current one, that is searched for runs."""
DEPTH = 3
"""Levels below a folder at which its runs are: outputs/sweeps/<sweep>/<trial> has three."""
LISTED = 10
"""Runs that a message lists."""
COMPLETED = "completed"


class Order(NamedTuple):
    """What is best: a metric of summary.json, and whether lower is better."""

    metric: str
    lowest: bool

    def best_first(self, runs: Sequence[Run]) -> list[Run]:
        """Return the completed runs that have the metric, the best first."""
        having = [run for run in runs if run.status == COMPLETED and self.metric in run.metrics]
        return sorted(having, key=lambda run: run.metrics[self.metric], reverse=not self.lowest)

    def groups(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Return the completed runs for each set of images that the metric was measured on, the best first."""
        groups: dict[str, list[Run]] = {}
        for run in self.best_first(runs):
            groups.setdefault(run.measured_on(self.metric), []).append(run)
        return [*groups.values()]


def usual_order() -> Order:
    """Return the order that the command `runs` has by default."""
    config = yaml.safe_load((CONF / "runs.yaml").read_text(encoding="utf-8"))
    return Order(config["metric"], config["mode"] == "min")


def choose_run(text: str, root: Path | str = ROOT) -> Path | None:
    """Return the run that a value of `run=` names without being its path; None if there is no such run.

    Args:
        text: `last`, `best:<metric>` or `best:<metric>:max`, each also behind a folder, as in `outputs/sweeps/x/last`;
            or the name of a run.
        root: the folder of the runs, if `text` has no folder before `last` or `best:`.

    Raises:
        DataError: if there is no run to choose from.
        ValueError: if several runs have the name, or the metric does not tell which one is best.
    """
    place, is_best, metric = text.partition(BEST)
    if is_best and (not place or place.endswith("/")):
        name, _, mode = metric.partition(":")
        if mode not in ("", "min", "max"):
            raise ValueError(f"run={text}: {mode} must be min or max.")
        return best_run(text, expanded(place or root), Order(name, mode != "max"))
    place, slash, last = text.rpartition("/")
    if last == LAST:
        return some_runs(text, expanded(place or slash or root))[0].folder
    return None if slash else run_by_name(text, expanded(root))


def some_runs(text: str, root: Path) -> list[Run]:
    """Return the runs below a folder that have a readable summary, the last started first.

    Raises:
        DataError: if there are none.
    """
    found = [run for run in list_runs(root) if run.summary] if root.is_dir() else []
    if not found:
        raise DataError(f"run={text}: there is no run in {root.absolute()}; train one, or name the folder of one.")
    return found


def best_run(text: str, root: Path, order: Order) -> Path:
    """Return the completed run below a folder that is best by a metric.

    Raises:
        DataError: if no run is completed.
        ValueError: if none has the metric, or they measured it on several sets of images.
    """
    runs = some_runs(text, root)
    groups = order.groups(runs)
    names = sorted({name for run in runs if run.status == COMPLETED for name in run.metrics})
    if not names:
        raise DataError(f"run={text}: none of the {len(runs)} runs in {root.absolute()} is completed.")
    if not groups:
        near = nearest(order.metric, names, 3)
        raise ValueError(f"run={text}: no completed run in {root} has {order.metric}; choose one such as {near}.")
    if len(groups) > 1:
        each = ", ".join(f"run={seen_from_here(group[0].folder)} (of {len(group)})" for group in groups[:LISTED])
        raise ValueError(
            f"run={text}: the runs in {root} have {order.metric} of {len(groups)} sets of images, which it does not"
            f" compare; choose the best of one: {each}."
        )
    return groups[0][0].folder


def run_by_name(text: str, root: Path) -> Path | None:
    """Return the run below a folder with a name; None if there is none.

    Raises:
        ValueError: if there are several.
    """
    found = [run.folder for run in list_runs(root) if text in run.names] if root.is_dir() else []
    if len(found) > 1:
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        folders = ", ".join(map(str, found[:LISTED]))
        raise ValueError(f"run={text}: {len(found)} runs have this name; name the folder of one: {folders}{more}.")
    return found[0] if found else None


def only_run(folder: Path) -> Path:
    """Return the folder of the only run in a folder of runs; return a run folder, and one without runs, unchanged.

    Raises:
        ValueError: if there are several runs in it; the message lists them and names the best.
    """
    if any((folder / mark).exists() for mark in MARKS):
        return folder
    found = [*find_runs(folder, DEPTH)]
    if len(found) > 1:
        raise ValueError(several_runs(folder, [inspect_run(one) for one in found]))
    return found[0] if found else folder


def several_runs(folder: Path, runs: Sequence[Run]) -> str:
    """Return the message that a folder holds several runs: a list of them, the best first, and how to choose one."""
    order = usual_order()
    best = order.best_first(runs)
    placed = {run.folder for run in best}
    ranked = [*best, *(run for run in runs if run.folder not in placed)]
    lines = [f"  {describe(run, order.metric)}" for run in ranked[:LISTED]]
    lines += [f"  and {len(runs) - LISTED} more"] if len(runs) > LISTED else []
    place = seen_from_here(folder)
    remedy = "name one of them"
    if len(order.groups(runs)) == 1:
        first = seen_from_here(best[0].folder)
        remedy += f"; the best by {order.metric} is run={first}, or run={place}/{BEST}{order.metric}"
    return "\n".join([f"run={place} is a folder of {len(runs)} runs; {remedy}.", *lines])


def describe(run: Run, metric: str) -> str:
    """Return a line about a run: folder, name, status and metric."""
    value = run.metrics.get(metric)
    parts = [run.name, run.status, "" if value is None else f"{metric} {value:.6g}"]
    return f"{seen_from_here(run.folder)}: {', '.join(filter(None, parts))}"

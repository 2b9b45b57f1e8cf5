"""Results of a grid or a search: a table of the trials, the best one, and the reasons why others have no result."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import le
from pathlib import Path
from typing import Any

import yaml

from vae_lab.errors import SweepFailed
from vae_lab.runs.folder import FAILURES, TO_RUN, State
from vae_lab.sweeps.trial import Trial
from vae_lab.system.config_dir import CONF
from vae_lab.system.quoting import command_line, quote_override

log = logging.getLogger(__name__)

LISTED = 20
"""Rows of the table."""
WELL = ("completed", "fast_dev_run", "pruned")
"""States of a trial that need no attention."""


def conclude(states: Mapping[Trial, State], retry: str, lowest: Mapping[str, bool] | None = None) -> None:
    """Log a table of a sweep's completed trials, the best first.

    Args:
        states: the trials and how they ended.
        retry: the setting that runs failed trials again.
        lowest: the metrics that rank trials, and whether less of each is better; None takes that of conf/report.yaml.

    Raises:
        SweepFailed: if a trial has no result; the message names each of them with its reason.
    """
    how: dict[str, Any] = yaml.safe_load((CONF / "report.yaml").read_text(encoding="utf-8"))
    counts = Counter(state.status for state in states.values())
    others = "".join(f", {n} {status}" for status, n in counts.items() if status != "completed")
    report = command_line("report", [quote_override("runs", next(iter(states)).folder.parent)])
    log.info("%d of %d trials completed%s; compare them: %s", counts["completed"], len(states), others, report)
    completed = [trial.folder for trial, state in states.items() if state.status == "completed"]
    for line in ranked(completed, lowest or {how["metric"]: how["mode"] == "min"}, how["ignored"]):
        log.info("%s", line)
    rows = [
        f"  {trial.name} {state.status}: {state.reason or 'it did not start'}"
        for trial, state in states.items()
        if state.status not in WELL
    ]
    remedies = {
        "the same command again runs those that were killed, interrupted or not started": TO_RUN,
        f"{retry} runs failed ones again": FAILURES,
        "a longer trainer.max_time lets stopped ones end": ("stopped",),
    }
    remedy = "".join(f"; {text}" for text, of in remedies.items() if any(counts[status] for status in of))
    if rows:
        raise SweepFailed("\n".join([f"{len(rows)} of {len(states)} trials have no result{remedy}:", *rows]))


def ranked(folders: Sequence[Path], lowest: Mapping[str, bool], ignored: Sequence[str]) -> list[str]:
    """Return log lines: a table of the completed runs, best first (the Pareto front of several metrics), and a summary.

    Args:
        folders: the run folders.
        lowest: the metrics, the first of which sorts, and whether less of each is better.
        ignored: settings that do not count as different, such as the seed.
    """
    from vae_lab.reporting.html import summarised
    from vae_lab.reporting.run_records import read_runs
    from vae_lab.reporting.seed_groups import decimal
    from vae_lab.runs.metrics import beside, direction

    metric, least = next(iter(lowest.items()))
    report = summarised(read_runs(folders) if folders else [], "", metric, ignored, lowest=least)
    best = [run for run in report.trials if lowest.keys() <= run.metrics.keys()]
    costs = [[run.metrics[name] * (1 if least else -1) for name, least in lowest.items()] for run in best]
    if len(lowest) > 1:
        beaten = [any(other != cost and all(map(le, other, cost)) for other in costs) for cost in costs]
        best = [run for run, is_beaten in zip(best, beaten, strict=True) if not is_beaten]
    if not best:
        return []
    columns = ["trial", *dict.fromkeys(name for name in [*lowest, *map(beside, lowest)] if name)]
    shown = [columns, *([run.name, *(decimal(run.metrics.get(name)) for name in columns[1:])] for run in best[:LISTED])]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in shown]
    lines += [f"and {len(best) - LISTED} more, which the report lists"] if len(best) > LISTED else []
    if len(lowest) > 1:
        return [f"trials that no other one beats in {', '.join(lowest)}:", *lines]
    named = f"best by {metric}, {direction(lowest=least)}: {best[0].name}, in {best[0].folder}"
    return [*lines, named, *report.sentences]

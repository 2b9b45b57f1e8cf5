"""Failure reports: each worker writes why it failed, and the launcher picks the root cause."""

import json
import time
from pathlib import Path
from typing import NamedTuple


class FailureReport(NamedTuple):
    """The report of a failed process: time, exit code, status and reason.

    Attributes:
        when: time of the failure in seconds since 1970.
        code: the exit code.
        status: the status for the run's summary.
        reason: the reason in one line, for the summary.
        account: the message for the user, with a traceback for unexpected errors.
        echo: whether the process failed because another one was lost.
    """

    when: float
    code: int
    status: str
    reason: str
    account: str
    echo: bool


def write_report(folder: Path, rank: int, error: BaseException) -> int:
    """Write a process's failure report if it has none yet, and return its exit code."""
    from vae_lab.cli.entry import describe_error
    from vae_lab.errors import RanksLost, status
    from vae_lab.system.atomic import write_whole
    from vae_lab.system.error_text import reason

    code, text = describe_error(error)
    report = FailureReport(time.time(), code, status(error), reason(error), text, isinstance(error, RanksLost))
    path = folder / f"rank-{rank}.json"
    if not path.exists():
        write_whole(path, json.dumps(report._asdict()).encode())
    return code


def read_reports(folder: Path) -> dict[int, FailureReport]:
    """Return the failure reports in a folder, by rank."""
    found = {path: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("rank-*.json")}
    return {int(path.stem.removeprefix("rank-")): FailureReport(**report) for path, report in found.items()}

"""The runs below a folder, and the state of each, read from summary.json and the lock alone."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.runs.folder import RUNNING, SUMMARY, State, state_of
from vae_lab.runs.metrics import part_of
from vae_lab.system.locks import LOCK, Holder, holder, sees_lock
from vae_lab.system.reading import Unreadable, is_number, read_json, read_text

log = logging.getLogger(__name__)

MARKS = (".hydra", "checkpoints", "metrics.csv")
"""Files that only a run folder has; it is not searched for more runs."""
MAX_DEPTH = 8
MAX_LOG_BYTES = 100_000_000
PATIENCE = 1800.0
"""Seconds without a written file after which a run that has not ended counts as stalled."""
STALLED, UNFINISHED, UNREADABLE = "stalled", "unfinished", "unreadable"
"""States beside those of summary.json: under way without progress; without a summary; with a damaged one."""
LIVE = (RUNNING, STALLED)
GROWING = (SUMMARY, "metrics.csv", "train.log", "checkpoints")
"""Files and folders of a run that change while it is under way."""
SHOWN = 500
"""Maximum length of a text from a summary."""


class Run(NamedTuple):
    """A run folder, its state now, and the content of its summary.json, which may have been written by a stranger.

    Attributes:
        folder: the run folder.
        status: status in the summary, or one of running, stalled, killed, unfinished and unreadable.
        reason: why the run has no result, or which process works on it.
        summary: content of summary.json; {} if it is missing or unreadable.
    """

    folder: Path
    status: str
    reason: str
    summary: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name given at the start, else what was swept in a trial of a sweep, else ""."""
        return self.text("name") or self.text("trial")

    @property
    def names(self) -> set[str]:
        """The texts that `run=` finds the run by: its name, its folder's name, and the id at the end of that."""
        name = self.folder.name
        return {self.text("name"), name, name.rpartition("-")[2]} - {""}

    @property
    def tags(self) -> list[str]:
        """The tags given at the start."""
        tags = self.summary.get("tags")
        return [printable(tag) for tag in tags] if isinstance(tags, list) else []

    @property
    def started(self) -> datetime | None:
        """When training began; for a run that does not say it, when its folder was changed last, or None."""
        try:
            return datetime.fromisoformat(str(self.summary.get("started"))).astimezone()
        except (ValueError, OverflowError):
            seconds = heartbeat(self.folder)
        return datetime.fromtimestamp(seconds).astimezone() if seconds else None

    @property
    def seconds(self) -> float | None:
        """How long the run took; for a run that is under way, how long ago it began."""
        if self.status in LIVE and self.started is not None:
            return time.time() - self.started.timestamp()
        seconds = self.summary.get("seconds")
        total = seconds.get("total") if isinstance(seconds, dict) else None
        return float(total) if is_number(total) else None  # pyright: ignore[reportArgumentType]

    @property
    def metrics(self) -> dict[str, float]:
        """The finite numbers of the summary with a slash in their name, such as test/neg_elbo."""
        return {key: float(value) for key, value in self.summary.items() if "/" in key and is_number(value)}

    def measured_on(self, metric: str) -> str:
        """Return a digest of the images on which a metric is measured; "" if it is unknown."""
        data = self.summary.get("data")
        return printable(data.get(f"{part_of(metric)}_digest", "")) if isinstance(data, dict) else ""

    def text(self, key: str) -> str:
        """Return an entry of the summary as printable text; "" if it is missing."""
        value = self.summary.get(key)
        return "" if value is None else printable(value)


def printable(value: object) -> str:
    """Return a value as text of limited length on one line, with escapes for control characters."""
    text = " ".join(str(value).split()) if isinstance(value, str) else str(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def find_runs(
    root: Path, depth: int = MAX_DEPTH, unreadable: Callable[[Path, OSError], object] | None = None
) -> Iterator[Path]:
    """Yield the run folders at and below `root`, except a sweep: a folder with only a summary and runs below it.

    Links to folders are not followed.

    Args:
        root: the folder.
        depth: number of levels below it that are searched.
        unreadable: is called with each folder that cannot be read; None logs a warning.
    """
    try:
        with os.scandir(root) as entries:
            found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    except OSError as error:
        report = unreadable or (lambda folder, error: log.warning("%s: %s; it is skipped", folder, error.strerror))
        report(root, error)
        return
    is_run = any(mark in found for mark in MARKS)
    children = sorted(name for name, is_folder in found.items() if is_folder) if not is_run and depth else []
    below = [run for child in children for run in find_runs(root / child, depth - 1, unreadable)]
    if is_run or (not below and SUMMARY in found):
        yield root
    yield from below


def list_runs(root: Path, patience: float = PATIENCE) -> list[Run]:
    """Return the runs at and below a folder, the last started first; folders that cannot be read are among them."""
    runs: list[Run] = []

    def note(folder: Path, error: OSError) -> None:
        runs.append(Run(folder, UNREADABLE, str(error.strerror), {}))

    runs += [inspect_run(folder, patience) for folder in find_runs(root, unreadable=note)]
    starts = {run.folder: start.timestamp() if (start := run.started) else 0.0 for run in runs}
    return sorted(runs, key=lambda run: (-starts[run.folder], run.folder))


def inspect_run(folder: Path, patience: float = PATIENCE) -> Run:
    """Return the run in a folder."""
    summary: dict[str, Any] = {}
    problem = ""
    try:
        summary = read_json(folder / SUMMARY)
    except Unreadable as error:
        problem = str(error)
    status, reason = state_now(folder, summary, problem, patience)
    return Run(folder, printable(status), printable(reason), summary)


def state_now(folder: Path, summary: Mapping[str, Any], problem: str, patience: float) -> State:
    """Return the state of a run now.

    A lock tells for certain whether a process of this host works on the run. For one of another host, whose lock may
    not be seen, a run counts as under way until it has written nothing for `patience` seconds.

    Args:
        folder: the run folder.
        summary: content of summary.json; {} if it is unreadable.
        problem: why it is unreadable, or "".
        patience: seconds without a written file after which a run is stalled.
    """
    who = locked_by(folder)
    quiet = time.time() - heartbeat(folder)
    if who is not None:
        process = f"process {who.pid} on {who.host}" if who.pid else "a process"
        if quiet < patience:
            return State(RUNNING, process)
        return State(STALLED, f"{process} has written nothing for {quiet / 60:.0f} minutes")
    if problem or not isinstance(summary.get("status"), str):
        return state_without_status(folder, problem)
    if summary["status"] == RUNNING and quiet < patience and not sees_lock(folder):
        return State(RUNNING, f"on another host, as it seems; it wrote {quiet:.0f} seconds ago")
    return state_of(summary)


def state_without_status(folder: Path, problem: str) -> State:
    """Return the state of a folder whose summary does not tell it; `problem` says why the summary is unreadable."""
    if problem.startswith("no "):
        ended = f"it ended before training began, or it is no run of vae_lab: there is no {SUMMARY}"
        return State(UNFINISHED, last_error(folder / "train.log") or ended)
    return State(UNREADABLE, problem or f"{SUMMARY} has no status; it is no run of vae_lab")


def locked_by(folder: Path) -> Holder | None:
    """Return the process that has locked a folder; None if there is none, or the lock is no file that can be read."""
    try:
        return holder(folder) if stat.S_ISREG((folder / LOCK).lstat().st_mode) else None  # opening a pipe would wait
    except OSError:
        return None


def heartbeat(folder: Path) -> float:
    """Return when a file of a run was written last, in seconds of the epoch; 0 if there is none."""
    times: list[float] = []
    for name in GROWING:
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def last_error(path: Path) -> str:
    """Return the last message at level ERROR in a log file; "" if there is none."""
    try:
        lines = read_text(path, MAX_LOG_BYTES).splitlines()
    except Unreadable:
        return ""
    messages = [line.partition(" ERROR ")[2].partition(": ")[2] for line in lines if " ERROR " in line]
    return messages[-1] if messages else ""

"""The layout of a run folder: file names, summary.json, and the state of the run."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.errors import DataError
from vae_lab.system.folders import expanded
from vae_lab.system.masking import masked
from vae_lab.system.quoting import command_line, key
from vae_lab.system.reading import Unreadable, read_json

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
MISSING, RUNNING, KILLED, INTERRUPTED = "missing", "running", "killed", "interrupted"
OUTDATED = "outdated"
"""The state of a folder whose run has other settings or images."""
TO_RUN = (MISSING, KILLED, INTERRUPTED, OUTDATED)
"""States in which a sweep runs a trial; in every other state the trial has an outcome or is running."""
FAILURES = ("failed", "diverged")


class State(NamedTuple):
    """The status of a run, and the reason why it ended early."""

    status: str
    reason: str = ""


def has_summary(folder: Path) -> bool:
    """Return whether a folder holds a summary.json, readable or not."""
    return (folder / SUMMARY).exists()


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the content of a run's summary.json; {} if it is missing or unreadable."""
    try:
        return read_json(folder / SUMMARY, links=True)
    except Unreadable:
        return {}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write a run's summary.json, with its secrets masked."""
    from vae_lab.system.atomic import write_whole  # imports torch

    write_whole(folder / SUMMARY, json.dumps(masked(summary), indent=2).encode())


def record(folder: Path, **facts: object) -> None:
    """Add entries to a run's summary.json."""
    write_summary(folder, read_summary(folder) | facts)


def state_at_rest(folder: Path) -> State:
    """Return the state of a run that no process is working on; if its status is still "running", it was killed."""
    return state_of(read_summary(folder))


def state_of(summary: Mapping[str, Any]) -> State:
    """Return the state of a run that no process is working on, by its summary."""
    if summary.get("status") == RUNNING:
        return State(KILLED, "its process ended without recording why, as after kill -9, a crash or too little memory")
    return State(str(summary.get("status", MISSING)), str(summary.get("reason", "")))


def command(overrides: Sequence[str], flags: Sequence[str] = ()) -> str:
    """Return the command line that trains a single trial; `flags` are arguments such as --config-dir."""
    # a trial with sweep= among its overrides would run the whole sweep
    alone = ["hydra.mode=RUN"] if any(key(text) == "sweep" for text in overrides) else []
    return command_line("train", [*masked(overrides), *alone], flags)


def find_run(run: str | Path, *, several: bool = False) -> Path:
    """Return the run folder or checkpoint file that `run` stands for, which need not exist.

    Args:
        run: its path; or `last`, `best:<metric>` or the name of a run, of those below outputs/; or a folder with one
            run in it.
        several: whether a folder of runs is returned unchanged.

    Raises:
        DataError: if there is no run for `last` or `best:<metric>` to choose from.
        ValueError: if several runs have the name, or are in the folder.
    """
    from vae_lab.runs.choice import choose_run, only_run  # which read summaries with this module

    path = expanded(run)
    if not os.path.lexists(path):
        chosen = choose_run(str(run))
        if chosen is None:
            return path
        log.info("run=%s is %s", run, chosen)
        return chosen
    return only_run(path) if path.is_dir() and not several else path


def checkpoint_path(run: str | Path, checkpoint: str) -> Path:
    """Return `run`/checkpoints/`checkpoint`.ckpt if `run` is a folder, else `run` itself, a checkpoint file."""
    path = find_run(run)
    return path / "checkpoints" / f"{checkpoint}.ckpt" if path.is_dir() else path


class Located(NamedTuple):
    """A run folder and the name of one of its checkpoints."""

    folder: Path
    checkpoint: str

    def names(self) -> dict[str, str]:
        """Return the names of the run folder and of the checkpoint, as entries of a result file."""
        return {"run": self.folder.name, "checkpoint": self.checkpoint}


def locate(run: str | Path, checkpoint: str) -> Located:
    """Return the run folder and the checkpoint name for `run`: a run folder, a checkpoint file, or see `find_run`."""
    path = find_run(run).absolute()
    if not path.is_file():
        return Located(path, checkpoint)
    return Located(path.parent.parent if path.parent.name == "checkpoints" else path.parent, path.stem)


def load_summary(run: str | Path) -> dict[str, Any]:
    """Return the content of a run's summary.json.

    Raises:
        DataError: if it is missing or unreadable, or if its `classes` are not a list.
    """
    path = find_run(run) / SUMMARY
    try:
        summary = read_json(path, links=True)
    except Unreadable as error:
        raise DataError(f"there is no readable summary at {path.absolute()} ({error}).") from error
    if not isinstance(summary.get("classes", []), list):
        raise DataError(f"{path.absolute()} has classes={summary['classes']!r:.40}, which is not a list of names.")
    return summary

"""The layout of a run folder: file names, the summary, the state of its run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.errors import DataError
from vae_lab.system.folders import expanded
from vae_lab.system.masking import masked
from vae_lab.system.quoting import command_line, key
from vae_lab.system.reading import Unreadable, read_json

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
    """Return whether a folder holds the summary of a run, readable or not."""
    return (folder / SUMMARY).exists()


def read_summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary; empty if it is missing or unreadable."""
    try:
        return read_json(folder / SUMMARY, links=True)
    except Unreadable:
        return {}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write a run's summary, with its secrets masked."""
    from vae_lab.system.atomic import write_whole  # imports torch

    write_whole(folder / SUMMARY, json.dumps(masked(summary), indent=2).encode())


def record(folder: Path, **facts: object) -> None:
    """Add facts to a run's summary."""
    write_summary(folder, read_summary(folder) | facts)


def state_at_rest(folder: Path) -> State:
    """Return the state of a run that no process works on; such a run with status "running" was killed."""
    summary = read_summary(folder)
    if summary.get("status") == RUNNING:
        return State(KILLED, "its process ended without recording why, as after kill -9, a crash or too little memory")
    return State(str(summary.get("status", MISSING)), str(summary.get("reason", "")))


def command(overrides: Sequence[str], flags: Sequence[str] = ()) -> str:
    """Return the command line that runs a trial alone; `flags` are others than overrides, such as --config-dir."""
    # a trial with sweep= among its overrides would run the whole sweep
    alone = ["hydra.mode=RUN"] if any(key(text) == "sweep" for text in overrides) else []
    return command_line("train", [*masked(overrides), *alone], flags)


def checkpoint_path(run: str | Path, checkpoint: str) -> Path:
    """Return the path of a checkpoint in a run folder; a path that is not a folder is returned as the checkpoint."""
    path = expanded(run)
    return path / "checkpoints" / f"{checkpoint}.ckpt" if path.is_dir() else path


class Located(NamedTuple):
    """A run folder and the name of one of its checkpoints."""

    folder: Path
    checkpoint: str

    def names(self) -> dict[str, str]:
        """Return the names of both for a result file."""
        return {"run": self.folder.name, "checkpoint": self.checkpoint}


def locate(run: str | Path, checkpoint: str) -> Located:
    """Return the folder and the checkpoint of a run that is given as a folder or as a checkpoint file."""
    path = expanded(run).absolute()
    if not path.is_file():
        return Located(path, checkpoint)
    return Located(path.parent.parent if path.parent.name == "checkpoints" else path.parent, path.stem)


def load_summary(run: str | Path) -> dict[str, Any]:
    """Return a run's summary.json.

    Raises:
        DataError: if it is missing or unreadable, or if its `classes` are not a list.
    """
    path = expanded(run) / SUMMARY
    try:
        summary = read_json(path, links=True)
    except Unreadable as error:
        raise DataError(f"there is no readable summary at {path.absolute()} ({error}).") from error
    if not isinstance(summary.get("classes", []), list):
        raise DataError(f"{path.absolute()} has classes={summary['classes']!r:.40}, which is not a list of names.")
    return summary

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

MISSING, RUNNING, KILLED, INTERRUPTED = "missing", "running", "killed", "interrupted"


OUTDATED = "outdated"
"""What lies in the folder was made of other settings or images."""


HOLES = (MISSING, KILLED, INTERRUPTED, OUTDATED)
"""States that the same command fills; every other one is an outcome, or somebody's work in hand."""


FAILURES = ("failed", "diverged")


class State(NamedTuple):
    """How far a trial is, and why it went no further."""

    status: str
    reason: str = ""


def read_summary(folder: Path) -> dict[str, Any]:
    """Return a run's summary; empty if there is none, or none that can be read."""
    try:
        return read_json(folder / "summary.json", links=True)
    except Unreadable:
        return {}


def record(folder: Path, **facts: object) -> None:
    """Add facts to a run's summary."""
    from vae_lab.system.atomic import write_whole  # which takes torch along

    write_whole(folder / "summary.json", json.dumps(masked(read_summary(folder) | facts), indent=2).encode())


def left(folder: Path) -> State:
    """Return the state of a run that nobody works on."""
    summary = read_summary(folder)
    if summary.get("status") == RUNNING:
        return State(KILLED, "its process ended without recording why, as after kill -9, a crash or too little memory")
    return State(str(summary.get("status", MISSING)), str(summary.get("reason", "")))


def command(overrides: Sequence[str], flags: Sequence[str] = ()) -> str:
    """Return the command line that runs a trial alone: the files of `sweep=` would have it start a sweep again.

    Args:
        overrides: of the trial.
        flags: where its configs come from.
    """
    alone = ["hydra.mode=RUN"] if any(key(text) == "sweep" for text in overrides) else []
    return command_line("train", [*masked(overrides), *alone], flags)


def checkpoint_path(run: str | Path, checkpoint: str) -> Path:
    """Return where a run folder has its checkpoint; a path that is no folder is taken for the checkpoint itself."""
    path = expanded(run)
    return path / "checkpoints" / f"{checkpoint}.ckpt" if path.is_dir() else path


class Located(NamedTuple):
    """A run folder, and which of its checkpoints is meant."""

    folder: Path
    checkpoint: str

    def names(self) -> dict[str, str]:
        """Return both as they are called in what is written."""
        return {"run": self.folder.name, "checkpoint": self.checkpoint}


def locate(run: str | Path, checkpoint: str) -> Located:
    """Return the folder and the checkpoint of a run given as a folder, or as a checkpoint file in one."""
    path = expanded(run).absolute()
    if not path.is_file():
        return Located(path, checkpoint)
    return Located(path.parent.parent if path.parent.name == "checkpoints" else path.parent, path.stem)


def load_summary(run: str | Path) -> dict[str, Any]:
    """Return a run's summary.json.

    Raises:
        DataError: if there is none, or it is none of vae_lab.
    """
    path = expanded(run) / "summary.json"
    try:
        summary = read_json(path, links=True)
    except Unreadable as error:
        raise DataError(f"there is no readable summary at {path.absolute()} ({error}).") from error
    if not isinstance(summary.get("classes", []), list):
        raise DataError(f"{path.absolute()} has {summary['classes']!r:.40} for classes, which is no list of names.")
    return summary

"""One trial of a sweep: a folder named by what was asked for, one process at work in it, and an end that is written."""

import hashlib
import json
import logging
import os
import random
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from vae_lab import errors
from vae_lab.runs.identity import images_digest
from vae_lab.runs.packages import import_problem
from vae_lab.system.config_dir import CONF
from vae_lab.system.masking import masked
from vae_lab.system.quoting import command_line
from vae_lab.system.reading import Unreadable, read_json

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept from a folder that another process works in
    fcntl = None

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The file in a run folder that the process at work in it holds locked."""
NOT_HASHED = ("group", "launcher")
"""Overrides that say where and how a trial is run: it stays the same trial without them."""
MISSING, RUNNING, KILLED, INTERRUPTED = "missing", "running", "killed", "interrupted"
OUTDATED = "outdated"
"""What lies in the folder was made of other settings or images."""
HOLES = (MISSING, KILLED, INTERRUPTED, OUTDATED)
"""States that the same command fills; every other one is an outcome, or somebody's work in hand."""
FAILURES = ("failed", "diverged")
PATIENCE = 5.0  # seconds in which those who merely look at a lock should have gone
LEFT_BEHIND = ("summary.json", "metrics.csv", "checkpoints", "figures", "tensorboard")


class State(NamedTuple):
    """How far a trial is, and why it went no further."""

    status: str
    reason: str = ""


class Trial(NamedTuple):
    """What is asked for, as Hydra's overrides, and where its run lies.

    Attributes:
        overrides: what was typed, and what the grid adds.
        folder: of its run.
        identity: of the resolved config; "" where it is not known, and not compared.
        images: the digest of the images, or "".
        flags: what else its command line needs; see `config_flags`.
    """

    overrides: tuple[str, ...]
    folder: Path
    identity: str = ""
    images: str = ""
    flags: tuple[str, ...] = ()

    def state(self) -> State:
        """Return the recorded end; a run that is under way according to its summary alone was killed."""
        if holder(self.folder) is not None:
            return State(RUNNING)
        other = self.made_of_other()
        return State(OUTDATED, f"what lies there was made of other {other}") if other else left(self.folder)

    def made_of_other(self) -> str:
        """Return "settings" or "images" if what lies in the folder was made of others than the trial's; else ""."""
        summary = read_summary(self.folder)
        if not summary:
            return ""
        if self.identity and summary.get("identity") != self.identity:
            return "settings"
        images = images_digest(summary.get("data"))
        return "images" if self.images and images and images != self.images else ""

    def is_hole(self, *, retry_failed: bool = False) -> bool:
        """Return whether the trial is to be run."""
        return self.state().status in (HOLES + FAILURES if retry_failed else HOLES)


class Holder(NamedTuple):
    """The process that works in a folder, and the command that it belongs to."""

    host: str
    pid: int
    command: str


def digest(overrides: Sequence[str]) -> str:
    """Return ten hexadecimal digits that name a trial by its overrides, whatever their order; secrets do not count."""
    asked = sorted(text for text in masked(overrides, remembered=False) if key(text) not in NOT_HASHED)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:10]


def key(override: str) -> str:
    """Return the setting or group that an override names."""
    return override.partition("=")[0].lstrip("+~")


def typed_threads(overrides: Sequence[str], otherwise: Any) -> Any:  # noqa: ANN401
    """Return what overrides say of `threads`, as a number if it is one."""
    typed = [text.partition("=")[2] for text in overrides if key(text) == "threads"] or [otherwise]
    return int(typed[-1]) if str(typed[-1]).isdecimal() else typed[-1]


def with_threads(overrides: Sequence[str], number: int) -> tuple[str, ...]:
    """Return overrides with the number of threads that was decided, without which bits would not be repeated."""
    return (*(text for text in overrides if key(text) != "threads"), f"threads={number}")


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


@contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Give whether this process may work in `folder`; the system takes the lock back when the process ends, however."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        if not _locked(file):
            yield False
            return
        file.truncate(0)
        file.write(json.dumps(Holder(socket.gethostname(), os.getpid(), os.environ.get("VAE_LAB_RUN", ""))))
        file.flush()
        yield True


def _locked(file: TextIO) -> bool:
    """Return whether the lock is ours now.

    Who merely looks at it, as `holder` does, shares it for a moment. So a lock that can be shared with us is held by
    nobody at work, and we ask again, at moments of chance, as others may do the same.
    """
    if fcntl is None:
        return True
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(file, fcntl.LOCK_UN)
            if time.monotonic() > deadline:  # a process that was stopped while it looked
                return False
            time.sleep(random.uniform(0, 1e-3))  # noqa: S311
        else:
            return True


def holder(folder: Path) -> Holder | None:
    """Return the process that works in `folder`, or None."""
    if fcntl is None:
        return None
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parsed(file.read())
    except FileNotFoundError:
        pass
    return None


def _parsed(text: str) -> Holder:
    try:
        return Holder(*json.loads(text))
    except (ValueError, TypeError):  # it has the lock, and has not yet said who it is
        return Holder("", 0, "")


Work = Callable[[str | None, str | None], object]
"""Trains and writes the summary; it is given the run to go on from and its W&B id, each None for a new start."""


def run_trial(trial: Trial, work: Work, *, retry_failed: bool = False) -> State:
    """Do what is left to do of a trial, and return its state.

    Args:
        trial: the trial.
        work: what is to be done.
        retry_failed: whether a recorded failure is to be tried again.

    Raises:
        Exception: what `work` raises, once it is recorded.
    """
    with hold(trial.folder) as mine:
        if not mine:
            log.info("trial %s is run by another process", trial.folder.name)
            return State(RUNNING)
        return run_held(trial, work, retry_failed=retry_failed)


def run_held(trial: Trial, work: Work, *, retry_failed: bool = False) -> State:
    """Do what `run_trial` does, in a folder that this process holds."""
    state = left(trial.folder)
    if state.status not in HOLES + (FAILURES if retry_failed else ()):
        return state
    log.info("trial %s: %s", trial.folder.name, shlex.join(trial.overrides))
    wandb_id = read_summary(trial.folder).get("wandb_id") if state.status in HOLES else None
    resume = make_ready(trial.folder, state)
    asked: dict[str, Any] = {"overrides": list(trial.overrides), "command": command(trial.overrides, trial.flags)}
    asked |= {"identity": trial.identity} if trial.identity else {}
    try:
        work(resume, wandb_id)
    except BaseException as error:
        record(trial.folder, **asked, status=errors.status(error), reason=reason(error))
        raise
    record(trial.folder, **asked)
    return left(trial.folder)


def left(folder: Path) -> State:
    """Return the state of a run that nobody works on."""
    summary = read_summary(folder)
    if summary.get("status") == RUNNING:
        return State(KILLED, "its process ended without a word: kill -9, a crash or too little memory")
    return State(str(summary.get("status", MISSING)), str(summary.get("reason", "")))


def settle(trial: Trial) -> State:
    """Return the state of a trial, and record it if it was killed."""
    with hold(trial.folder) as mine:
        state = left(trial.folder) if mine else State(RUNNING)
        if state.status == KILLED:
            record(
                trial.folder,
                **state._asdict(),
                overrides=list(trial.overrides),
                command=command(trial.overrides, trial.flags),
            )
    return state


def make_ready(folder: Path, state: State) -> str | None:
    """Return the run to go on from, or None once a folder is free for a new start.

    Who was stopped from outside goes on from the last checkpoint, in place; what a failed run left is put aside.
    """
    if state.status in HOLES and (folder / "checkpoints" / "last.ckpt").is_file():
        return str(folder)
    left = [folder / name for name in LEFT_BEHIND if (folder / name).exists()]
    if state.status in FAILURES:
        aside = next_attempt(folder)
        for path in left:
            path.rename(aside / path.name)
        return None
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def put_aside(folder: Path) -> Path:
    """Move all that a run has left into a new folder inside its own, and return that."""
    left = [path for path in folder.iterdir() if path.name != LOCK and not path.name.startswith("attempt-")]
    aside = next_attempt(folder)
    for path in left:
        path.rename(aside / path.name)
    return aside


def next_attempt(folder: Path) -> Path:
    """Return a new folder in that of a trial, for what an attempt has left."""
    aside = folder / f"attempt-{len(list(folder.glob('attempt-*'))) + 1}"
    aside.mkdir()
    return aside


def config_flags(hydra: Any, config_name: str = "") -> tuple[str, ...]:  # noqa: ANN401
    """Return the words of a command line that say where its configs come from, with absolute paths.

    Args:
        hydra: the `hydra` part of a composed config.
        config_name: of the command's own config, to leave --config-name out where it is that; "" leaves it out always.
    """
    found: list[str] = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            found += ["--config-dir", str(Path(source.path).absolute())]
        elif source.provider == "main" and source.schema == "file" and Path(source.path) != CONF:
            found += ["--config-path", str(Path(source.path).absolute())]
    if config_name and hydra.job.config_name != config_name:
        found += ["--config-name", str(hydra.job.config_name)]
    if hydra.searchpath:
        places = (re.sub("^(file://)?(?!.*://)(.+)", _absolute, str(place)) for place in hydra.searchpath)
        found.append(f"hydra.searchpath=[{','.join(places)}]")
    return tuple(found)


def _absolute(place: re.Match[str]) -> str:
    return f"file://{Path(place[2]).absolute()}"


def command(overrides: Sequence[str], flags: Sequence[str] = ()) -> str:
    """Return the command line that runs a trial alone: the files of `sweep=` would have it start a sweep again.

    Args:
        overrides: of the trial.
        flags: where its configs come from.
    """
    alone = ["hydra.mode=RUN"] if any(key(text) == "sweep" for text in overrides) else []
    return command_line("train", [*masked(overrides), *alone], flags)


def reason(error: BaseException) -> str:
    """Return in one line what went wrong, below what Hydra wraps around it."""
    unimportable = import_problem(error)
    if unimportable:
        return unimportable
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    text = f"left with exit code {error.code}" if isinstance(error, SystemExit) else str(error).strip()
    return " ".join(text.split())[:500] or type(error).__name__

"""One trial of a sweep: its folder, its state, retry and resume."""

import hashlib
import json
import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vae_lab import errors
from vae_lab.runs.folder import (
    FAILURES,
    KILLED,
    OUTDATED,
    RUNNING,
    TO_RUN,
    State,
    command,
    read_summary,
    record,
    state_at_rest,
)
from vae_lab.runs.identity import images_digest
from vae_lab.system.config_dir import CONF
from vae_lab.system.error_text import reason
from vae_lab.system.locks import LOCK, hold, holder
from vae_lab.system.masking import masked
from vae_lab.system.quoting import key

log = logging.getLogger(__name__)

NOT_HASHED = ("group", "launcher")
"""Overrides that say where and how a trial is run: it stays the same trial without them."""
LEFT_BEHIND = ("summary.json", "metrics.csv", "checkpoints", "figures", "tensorboard")


class Trial(NamedTuple):
    """What is asked for, as Hydra's overrides, and where its run lies.

    Attributes:
        overrides: what was typed, and what the grid adds.
        folder: of its run.
        identity: of the resolved config; "" where it is not known, and not compared.
        images: the digest of the images, or "".
        flags: what else its command line needs; see `config_flags`.
        swept: the overrides that tell it from the other trials.
    """

    overrides: tuple[str, ...]
    folder: Path
    identity: str = ""
    images: str = ""
    flags: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What is swept, as in "nlatent=8 lr=0.001", and the folder's name; that alone where nothing is swept."""
        return f"{short_names(self.swept)} ({self.folder.name})" if self.swept else self.folder.name

    def state(self) -> State:
        """Return the recorded end; a run that is under way according to its summary alone was killed."""
        if holder(self.folder) is not None:
            return State(RUNNING)
        other = self.made_of_other()
        return State(OUTDATED, f"what lies there was made of other {other}") if other else state_at_rest(self.folder)

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
        return self.state().status in (TO_RUN + FAILURES if retry_failed else TO_RUN)


def short_names(overrides: Sequence[str]) -> str:
    """Return overrides without the groups before their names, where the names stay different: "nlatent=8 lr=0.001"."""
    keys = [key(text) for text in overrides]
    last = [name.rpartition(".")[2] for name in keys]
    names = [short if last.count(short) == 1 else name for name, short in zip(keys, last, strict=True)]
    values = [text.partition("=")[2] for text in masked(list(overrides))]
    return " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def digest(overrides: Sequence[str]) -> str:
    """Return ten hexadecimal digits that name a trial by its overrides, whatever their order; secrets do not count."""
    asked = sorted(text for text in masked(overrides, remembered=False) if key(text) not in NOT_HASHED)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:10]


def typed_threads(overrides: Sequence[str], otherwise: Any) -> Any:  # noqa: ANN401
    """Return what overrides say of `threads`, as a number if it is one."""
    typed = [text.partition("=")[2] for text in overrides if key(text) == "threads"] or [otherwise]
    return int(typed[-1]) if str(typed[-1]).isdecimal() else typed[-1]


def with_threads(overrides: Sequence[str], number: int) -> tuple[str, ...]:
    """Return overrides with the number of threads that was decided, without which bits would not be repeated."""
    return (*(text for text in overrides if key(text) != "threads"), f"threads={number}")


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
            log.info("trial %s is run by another process", trial.name)
            return State(RUNNING)
        return run_held(trial, work, retry_failed=retry_failed)


def run_held(trial: Trial, work: Work, *, retry_failed: bool = False) -> State:
    """Do what `run_trial` does, in a folder that this process holds."""
    state = state_at_rest(trial.folder)
    if state.status not in TO_RUN + (FAILURES if retry_failed else ()):
        return state
    log.info("trial %s: %s", trial.name, shlex.join(trial.overrides))
    wandb_id = read_summary(trial.folder).get("wandb_id") if state.status in TO_RUN else None
    resume = make_ready(trial.folder, state)
    asked: dict[str, Any] = {"overrides": list(trial.overrides), "command": command(trial.overrides, trial.flags)}
    asked |= {"identity": trial.identity} if trial.identity else {}
    try:
        work(resume, wandb_id)
    except BaseException as error:
        record(trial.folder, **asked, status=errors.status(error), reason=reason(error))
        raise
    record(trial.folder, **asked)
    return state_at_rest(trial.folder)


def settle(trial: Trial) -> State:
    """Return the state of a trial, and record it if it was killed."""
    with hold(trial.folder) as mine:
        state = state_at_rest(trial.folder) if mine else State(RUNNING)
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
    if state.status in TO_RUN and (folder / "checkpoints" / "last.ckpt").is_file():
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


def label(cfg: DictConfig, group: str, swept: Sequence[str], wandb_id: str | None) -> None:
    """Name a trial in W&B by what is swept, and let it go on with an earlier run of its own.

    Where nothing was typed, W&B's variables come before what is swept; the tags of both are given.
    """
    if "wandb" in cfg.logger:
        typed, asked = cfg.group, os.environ.get("WANDB_RUN_GROUP")
        wandb = cfg.logger.wandb
        tags = list(wandb.get("tags") or []) or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
        with open_dict(wandb):  # Lightning's own logger may stand here, with other settings
            wandb.group = asked if asked and typed is None else group
            wandb.id = wandb_id
            wandb.name = wandb.get("name") or " ".join(swept)
            wandb.tags = [*tags, *(text[:64] for text in swept)]
    cfg.group = group


def resolved(cfg: DictConfig) -> object:
    """Return a config as plain values, unresolved if it refers to what is not there, which training will tell."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(cfg, resolve=False)

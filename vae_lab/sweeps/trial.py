"""One trial of a sweep: its folder, its state, and how it is retried and resumed."""

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vae_lab import errors
from vae_lab.reporting.untrusted_files import read_yaml
from vae_lab.runs.folder import (
    FAILURES,
    KILLED,
    OUTDATED,
    RUNNING,
    SUMMARY,
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
from vae_lab.system.locks import LOCK, POLL, hold, holder
from vae_lab.system.masking import masked
from vae_lab.system.quoting import key, parse
from vae_lab.system.reading import Unreadable

log = logging.getLogger(__name__)

NOT_HASHED = ("group", "launcher", "name", "tags", "notes")
"""Overrides that say where and how a trial is run, or describe it; they do not change its folder."""
RESULTS = (SUMMARY, "metrics.csv", "checkpoints", "figures", "tensorboard")
"""Files and folders of a run that a new attempt must not find."""
LONG = re.compile(r"\d+\.\d{5,}(e[+-]?\d+)?")
"""A number with more decimals than people read."""


class Trial(NamedTuple):
    """One training run of a sweep: its overrides and its folder.

    Attributes:
        overrides: all overrides, those that every trial of the sweep shares included.
        folder: the run folder.
        identity: hash of the resolved config; "" if it is unknown, and then not compared.
        images: digest of the images, or "".
        flags: other arguments of its command line; see `config_flags`.
        swept: the overrides in which the trials differ.
    """

    overrides: tuple[str, ...]
    folder: Path
    identity: str = ""
    images: str = ""
    flags: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The swept overrides and the folder's name, as in "nlatent=8 lr=0.001 (3f07049de2)"."""
        return f"{short_names(self.swept)} ({self.folder.name})" if self.swept else self.folder.name

    def state(self) -> State:
        """Return the state of the trial: running, outdated, killed, missing, or the status in summary.json."""
        if holder(self.folder) is not None:
            return State(RUNNING)
        other = self.made_of_other()
        return State(OUTDATED, f"the run in its folder had other {other}") if other else state_at_rest(self.folder)

    def made_of_other(self) -> str:
        """Return "settings" or "images" if these differ between the trial and the run in its folder, else ""."""
        summary = read_summary(self.folder)
        if not summary:
            return ""
        if self.identity and summary.get("identity") != self.identity:
            return "settings"
        images = images_digest(summary.get("data"))
        return "images" if self.images and images and images != self.images else ""

    def is_hole(self, *, retry_failed: bool = False) -> bool:
        """Return whether the trial must be run: it has no outcome, or it failed and `retry_failed` is set."""
        return self.state().status in (TO_RUN + FAILURES if retry_failed else TO_RUN)


def short_names(overrides: Sequence[str]) -> str:
    """Return overrides as a short text: the last part of each key where that is unique, numbers with four digits.

    Example:
        >>> from vae_lab.sweeps.trial import short_names
        >>> short_names(["model.nlatent=8", "optimizer.lr=0.00031622776601683794"])
        'nlatent=8 lr=0.0003162'
    """
    keys = [key(text) for text in overrides]
    last = [name.rpartition(".")[2] for name in keys]
    names = [short if last.count(short) == 1 else name for name, short in zip(keys, last, strict=True)]
    values = [LONG.sub(lambda found: f"{float(found[0]):.4g}", text.partition("=")[2]) for text in masked([*overrides])]
    return " ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def swept_keys(folder: Path) -> set[str]:
    """Return the keys that a sweep varies, read from Hydra's multirun.yaml in its folder; empty if it is unreadable."""
    try:
        hydra = read_yaml(folder / "multirun.yaml")["hydra"]
        params = [f"{name}={value}" for name, value in (hydra["sweeper"].get("params") or {}).items()]
        parsed = [(text, parse(text)) for text in map(str, [*hydra["overrides"]["task"], *params])]
    except (Unreadable, KeyError, TypeError, AttributeError):
        return set()
    return {key(text) for text, override in parsed if override is not None and override.is_sweep_override()}


def digest(overrides: Sequence[str]) -> str:
    """Return a hash of overrides, 10 hexadecimal digits, that is independent of their order and of secrets."""
    asked = sorted(text for text in masked(overrides, remembered=False) if key(text) not in NOT_HASHED)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:10]


def typed_threads(overrides: Sequence[str], otherwise: Any) -> Any:  # noqa: ANN401
    """Return the value of `threads` among overrides, as an int if it is a number; `otherwise` if it is missing."""
    typed = [text.partition("=")[2] for text in overrides if key(text) == "threads"] or [otherwise]
    return int(typed[-1]) if str(typed[-1]).isdecimal() else typed[-1]


def with_threads(overrides: Sequence[str], number: int) -> tuple[str, ...]:
    """Return overrides with `threads` set to a number."""
    return (*(text for text in overrides if key(text) != "threads"), f"threads={number}")


Work = Callable[[str | None, str | None], object]
"""Trains and writes the summary. Its arguments are the run to resume and its W&B id, each None for a new start."""


def run_trial(trial: Trial, work: Work, *, retry_failed: bool = False) -> State:
    """Run a trial unless it has an outcome or another process runs it, and return its state.

    Args:
        trial: the trial.
        work: trains it.
        retry_failed: whether a trial that failed or diverged is run again.

    Raises:
        Exception: what `work` raises, after it was recorded in the summary; a note names the trial.
    """
    with hold(trial.folder) as mine:
        if not mine:
            log.info("another process runs trial %s", trial.name)
            return State(RUNNING)
        return run_held(trial, work, retry_failed=retry_failed)


def run_held(trial: Trial, work: Work, *, retry_failed: bool = False) -> State:
    """Run a trial whose folder this process has locked, unless it has an outcome, and return its state."""
    state = state_at_rest(trial.folder)
    if state.status not in TO_RUN + (FAILURES if retry_failed else ()):
        return state
    wandb_id = read_summary(trial.folder).get("wandb_id") if state.status in TO_RUN else None
    resume = make_ready(trial.folder, state)
    log.info("trial %s %s", trial.name, "starts" if resume is None else "goes on from its last checkpoint")
    try:
        work(resume, wandb_id)
    except BaseException as error:
        record(trial.folder, **recorded(trial), status=errors.status(error), reason=reason(error))
        error.add_note(f"trial {trial.name}")
        raise
    record(trial.folder, **recorded(trial))
    return state_at_rest(trial.folder)


def recorded(trial: Trial) -> dict[str, Any]:
    """Return the entries of summary.json that describe a trial."""
    line = command(trial.overrides, trial.flags)
    facts = {"overrides": list(trial.overrides), "command": line, "trial": short_names(trial.swept)}
    return facts | ({"identity": trial.identity} if trial.identity else {})


def settle(trial: Trial) -> State:
    """Return the state of a trial; if the trial was killed, record this in its summary.json."""
    with hold(trial.folder) as mine:
        state = state_at_rest(trial.folder) if mine else State(RUNNING)
        if state.status == KILLED:
            record(trial.folder, **state._asdict(), **recorded(trial))
    return state


def wait(trials: Sequence[Trial]) -> None:
    """Wait until no process runs any of the trials."""
    for trial in trials:
        who = holder(trial.folder)
        if who is not None:
            log.info("waiting for trial %s, which process %d on %s runs", trial.name, who.pid, who.host)
        while holder(trial.folder) is not None:
            time.sleep(POLL)


def make_ready(folder: Path, state: State) -> str | None:
    """Return the run folder if its run can be resumed, else clear it for a new start and return None.

    A run that was killed or interrupted is resumed in place if it has a checkpoint, and is removed otherwise. The files
    of a failed run are moved to a folder of their own.
    """
    if state.status in FAILURES:
        move_aside(folder, RESULTS)
        return None
    if (folder / "checkpoints" / "last.ckpt").is_file():
        return str(folder)
    for path in (folder / name for name in RESULTS):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return None


def move_aside(folder: Path, names: Sequence[str] = ()) -> Path:
    """Move files of a run, all of them by default, into a new subfolder attempt-<n>, and return the subfolder."""
    attempts = list(folder.glob("attempt-*"))
    moved = [path for path in folder.iterdir() if path.name in names or not names]
    aside = folder / f"attempt-{len(attempts) + 1}"
    aside.mkdir()
    for path in moved:
        if path.name != LOCK and path not in attempts:
            path.rename(aside / path.name)
    return aside


def config_flags(hydra: Any, config_name: str = "") -> tuple[str, ...]:  # noqa: ANN401
    """Return the command-line arguments that say where a command's configs come from, with absolute paths.

    Args:
        hydra: the `hydra` part of a composed config.
        config_name: the command's own config, for which --config-name is left out; "" leaves it out always.
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
        places = (str(place).removeprefix("file://") for place in hydra.searchpath)
        urls = (place if "://" in place else f"file://{Path(place).absolute()}" for place in places)
        found.append(f"hydra.searchpath=[{','.join(urls)}]")
    return tuple(found)


def label(cfg: DictConfig, group: str, swept: Sequence[str], wandb_id: str | None) -> None:
    """Set the W&B group, name, tags and id of a trial in its config.

    Settings come first, then W&B's variables for group and name, then the sweep's values. Tags are added up.
    """
    if "wandb" in cfg.logger:
        typed, asked = cfg.group, os.environ.get("WANDB_RUN_GROUP")
        wandb = cfg.logger.wandb
        tags = list(wandb.get("tags") or []) or [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
        with open_dict(wandb):  # Lightning's own logger may stand here, with other settings
            wandb.group = asked if asked and typed is None else group
            wandb.id = wandb_id
            wandb.name = wandb.get("name") or short_names(swept)
            wandb.tags = [*tags, *(text[:64] for text in swept)]
    cfg.group = group


def resolved(cfg: DictConfig) -> object:
    """Return a config as plain values, with interpolations resolved; if one fails, all stay as text."""
    try:
        return OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(cfg, resolve=False)

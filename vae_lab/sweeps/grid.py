"""Grid sweeps: launch the trials that have no outcome yet, wait for all trials, and log the results."""

import hashlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from vae_lab.errors import Interrupted
from vae_lab.reporting.untrusted_files import read_yaml
from vae_lab.runs.folder import KILLED, MISSING, OUTDATED, read_summary
from vae_lab.runs.identity import describe_changes, differences, images_digest
from vae_lab.sweeps.results import conclude
from vae_lab.sweeps.trial import Trial, move_aside, settle, wait
from vae_lab.system.error_text import reason
from vae_lab.system.locks import POLL, hold, holder
from vae_lab.system.masking import masked
from vae_lab.system.quoting import key
from vae_lab.system.reading import Unreadable
from vae_lab.system.signals import EndAtOnce, handled_signals

log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Trial]], None]
"""Runs some trials. It returns, or raises, when it can do no more for them."""
PATIENCE = 60.0
"""Seconds that trials have to save a checkpoint after a signal."""
NOT_OF_IMAGES = ("batch_size", "eval_batch_size", "seed")
"""Settings of `data` that do not change the images."""


def sweep_name(fixed: Sequence[str], swept: Sequence[str]) -> str:
    """Return the default name of a sweep's folder: the swept settings, and a hash of the swept and fixed settings."""
    last = "-".join(name.rpartition(".")[2] for name in map(key, swept))
    said = hashlib.sha256(json.dumps([sorted(masked(fixed, remembered=False)), sorted(swept)]).encode()).hexdigest()[:6]
    return f"{last[:60]}-{said}" if last else said


def complete(
    trials: Sequence[Trial],
    launch: Launch,
    *,
    shared_fate: bool,
    retry_failed: bool = False,
    configs: Mapping[Path, object] = MappingProxyType({}),
) -> None:
    """Launch the trials that have no outcome yet, wait for those that other processes run, and log the results.

    Args:
        trials: the whole sweep.
        launch: runs some trials.
        shared_fate: whether the launcher ends all trials when one process dies, so that these are run again one by one.
        retry_failed: whether trials that failed or diverged are run again.
        configs: the config of each trial by its folder, to name what has changed.

    Raises:
        SweepFailed: if a trial has no result in the end.
    """
    free_outdated(trials, configs)
    due = [trial for trial in trials if trial.is_hole(retry_failed=retry_failed)]
    log.info("%d trials, %d to run, in %s", len(trials), len(due), trials[0].folder.parent)
    with passed_on(trials):
        run_due(due, launch, shared_fate=shared_fate)
        wait(trials)
        free_outdated(trials, configs)
        # as those of the workers of a driver that was killed, which save a checkpoint and end
        given_up = [trial for trial in trials if trial not in due and trial.is_hole()]
        run_due(given_up, launch, shared_fate=shared_fate)
    conclude({trial: trial.state() for trial in trials}, "hydra.sweeper.retry_failed=true")


def free_outdated(trials: Sequence[Trial], configs: Mapping[Path, object]) -> None:
    """Move the run in a trial's folder into a subfolder if its settings or images differ from the trial's; log it."""
    for trial in trials:
        if trial.state().status != OUTDATED:
            continue
        with hold(trial.folder) as mine:
            other = trial.made_of_other()
            if not mine or not other:  # another process has started it, or moved it, in between
                continue
            with suppress(Unreadable, KeyError):
                changes = differences(read_yaml(trial.folder / ".hydra" / "config.yaml"), configs[trial.folder])
                other = f"settings: {describe_changes(changes)}" if other == "settings" and changes else other
            line = "trial %s was made with other %s; that is kept in %s, and the trial is trained anew"
            log.warning(line, trial.name, other, move_aside(trial.folder))


def with_images(trials: Sequence[Trial], configs: Mapping[Path, Any]) -> list[Trial]:
    """Return the trials; each trial whose folder holds a run gets the digest of the images that its config names.

    If these cannot be read, a warning says that they are not compared: the machine that starts a sweep may lack files
    that those of the trials have.
    """
    digests: dict[str, str] = {}
    found: list[Trial] = []
    for trial in trials:
        images = ""
        if read_summary(trial.folder).get("data") and not trial.made_of_other():
            data = configs[trial.folder]["data"]
            key = json.dumps({name: value for name, value in data.items() if name not in NOT_OF_IMAGES}, default=str)
            if key not in digests:
                digests[key] = readable_digest(data)
            images = digests[key]
        found.append(trial._replace(images=images))
    return found


def readable_digest(config: dict[str, Any]) -> str:
    """Return the digest of the images of a `data` config; if they cannot be read, log a warning and return ""."""
    from vae_lab.runs.load import fingerprint

    try:
        return images_digest(fingerprint(config)) or ""
    except Exception as error:  # a trial that trains on them reports it
        line = "the images cannot be compared with those of finished trials, only the settings are: %s"
        log.warning(line, reason(error))
        return ""


def run_due(due: Sequence[Trial], launch: Launch, *, shared_fate: bool) -> None:
    """Launch trials, and launch again those that did not start or were killed together.

    Trials that did not start are launched again if any other trial did. With `shared_fate`, several trials that were
    killed are launched again one by one.
    """
    while due:
        try:
            launch(due)
        except Exception as error:  # a launcher that lost a process does not say which trial it ran
            said = f"{type(error).__name__}: {error}"[:300]
            log.warning("the launcher failed (%s); reading the trials' folders", said)
        wait(due)
        states = {trial: settle(trial).status for trial in due}
        killed = [trial for trial in due if states[trial] == KILLED]
        for trial in killed if shared_fate and len(killed) > 1 else ():
            run_due([trial], launch, shared_fate=False)
        untouched = [trial for trial in due if states[trial] == MISSING]
        due = untouched if len(untouched) < len(due) else []


def rows_of_grid(overrides: Sequence[Any], zipped: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the overrides of each point of a grid, one tuple per trial; zipped settings change together.

    Args:
        overrides: parsed by Hydra, in the order in which they were typed.
        zipped: groups of keys; those of one group have equally many values.

    Raises:
        ValueError: if a zipped key is not swept, is in two groups, or has another number of values.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        name = override.get_key_element()
        swept = override.is_sweep_override()
        texts = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
        values[name] = [f"{name}={text}" for text in texts]
    group_of: dict[str, int] = {}
    for number, group in enumerate(zipped):
        counts = {name: len(values.get(name, ())) for name in group}
        if min(counts.values(), default=0) < 2 or len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {n}" for name, n in counts.items())
            raise ValueError(f"hydra.sweeper.zip: zipped settings need as many values as each other ({said}).")
        if repeated := [name for name in group if name in group_of]:
            raise ValueError(f"hydra.sweeper.zip: {repeated[0]} is in two groups.")
        group_of |= dict.fromkeys(group, number)
    axes: dict[str | int, list[list[str]]] = {}
    for name, texts in values.items():
        axes.setdefault(group_of.get(name, name), []).append(texts)
    points = product(*(zip(*axis, strict=True) for axis in axes.values()))
    return [tuple(text for part in point for text in part) for point in points]


class PassOn(EndAtOnce):
    """A signal handler that sends SIGTERM to the trials' processes, waits for them, and raises Interrupted.

    Args:
        trials: the whole sweep.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__("after a checkpoint of each trial; the same command goes on")
        self.trials = trials

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal: send SIGTERM to the trials; at the first one, wait for them and raise Interrupted."""
        for pid in own_processes(self.trials):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)
        if self.is_ending():
            return
        self.begin()
        deadline = time.monotonic() + PATIENCE
        while own_processes(self.trials) and time.monotonic() < deadline:
            time.sleep(POLL)
        self.begin()
        raise Interrupted(number, self.how)


@contextmanager
def passed_on(trials: Sequence[Trial]) -> Iterator[None]:
    """Handle signals by `PassOn` inside the block, and restore the previous handlers on exit."""
    end = PassOn(trials)
    previous = {number: signal.signal(number, end) for number in handled_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            if isinstance(handler, EndAtOnce) and end.is_ending():
                handler.begin()
            signal.signal(number, handler)


def own_processes(trials: Sequence[Trial]) -> list[int]:
    """Return the ids of this command's other processes on this machine that run one of the trials."""
    found = [holder(trial.folder) for trial in trials]
    here, command = socket.gethostname(), os.environ.get("VAE_LAB_RUN", "")
    return [who.pid for who in found if who and who.pid != os.getpid() and (who.host, who.command) == (here, command)]

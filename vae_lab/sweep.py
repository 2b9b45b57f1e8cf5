"""What is missing of a sweep, launched until every trial has an outcome."""

import hashlib
import json
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from vae_lab.errors import Interrupted, SweepFailed
from vae_lab.system.masking import masked
from vae_lab.trial import FAILURES, KILLED, MISSING, State, Trial, holder, key, settle

log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Trial]], None]
POLL = 0.5  # seconds between two looks at trials that other processes run
PATIENCE = 60.0  # seconds in which a trial that is asked to stop may save itself
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sweep_name(fixed: Sequence[str], swept: Sequence[str]) -> str:
    """Return the folder's name of a sweep that was given none: what is swept, and a hash of all that is fixed."""
    last = "-".join(name.rpartition(".")[2] for name in map(key, swept))
    said = hashlib.sha256(json.dumps([sorted(masked(fixed, remembered=False)), sorted(swept)]).encode()).hexdigest()[:6]
    return f"{last[:60]}-{said}" if last else said


def complete(trials: Sequence[Trial], launch: Launch, *, shared_fate: bool, retry_failed: bool = False) -> None:
    """Launch the trials that have no outcome, wait for those that others run, and run what they give up.

    Args:
        trials: the whole sweep.
        launch: runs some trials; it returns, or raises, when it can do no more for them.
        shared_fate: whether the launcher lets one dead process take the others with it, so that several that died
            together are launched once more, one by one.
        retry_failed: whether a recorded failure is to be tried again.

    Raises:
        SweepFailed: if a trial has no result in the end.
    """
    due = [trial for trial in trials if trial.is_hole(retry_failed=retry_failed)]
    log.info("%d trials, %d to run, in %s", len(trials), len(due), trials[0].folder.parent)
    with passed_on(trials):
        work_off(due, launch, shared_fate=shared_fate)
        wait(trials)
        given_up = [trial for trial in trials if trial not in due and trial.is_hole()]
        if given_up:  # as by the workers of a driver that was killed, which save what they have and end
            log.info("%d to run that another process has given up", len(given_up))
            work_off(given_up, launch, shared_fate=shared_fate)
    conclude(trials)


def work_off(due: Sequence[Trial], launch: Launch, *, shared_fate: bool) -> None:
    """Launch trials, those that nobody began again, and alone those that died together."""
    while due:
        dead, untouched = attempt(due, launch)
        for trial in dead if shared_fate and len(dead) > 1 else ():
            attempt([trial], launch)
        due = untouched if len(untouched) < len(due) else []


def attempt(due: Sequence[Trial], launch: Launch) -> list[list[Trial]]:
    """Launch trials, and return those that died in it, which is recorded, and those that nobody ever began."""
    try:
        launch(due)
    except Exception as error:  # a launcher that lost a process knows no more than that
        log.warning("the launcher gave up (%s); looking what its trials left", f"{type(error).__name__}: {error}"[:300])
    wait(due)
    states = {trial: settle(trial).status for trial in due}
    return [[trial for trial in due if states[trial] == status] for status in (KILLED, MISSING)]


def wait(trials: Sequence[Trial]) -> None:
    """Return once no process works on any of the trials."""
    for trial in trials:
        told = False
        while (who := holder(trial.folder)) is not None:
            if not told:
                log.info("waiting for trial %s, which process %d on %s runs", trial.folder.name, who.pid, who.host)
                told = True
            time.sleep(POLL)


def conclude(trials: Sequence[Trial]) -> None:
    """Log how many trials are completed, and raise SweepFailed with the reason of every other one."""
    states: dict[Trial, State] = {trial: trial.state() for trial in trials}
    counts = Counter(state.status for state in states.values())
    folder = trials[0].folder.parent
    line = f"{counts['completed']} of {len(trials)} trials completed; python -m vae_lab.report runs={folder}"
    log.info("%s", line)
    others = {trial: state for trial, state in states.items() if state.status != "completed"}
    if not others:
        return
    common = set.intersection(*(set(trial.overrides) for trial in trials))
    rows = [
        f"  {trial.folder.name} {state.status}: {state.reason or 'never begun'}"
        f" ({' '.join(text for text in trial.overrides if text not in common)})"
        for trial, state in others.items()
    ]
    failed = sum(counts[status] for status in FAILURES)
    remedy = "the same command again runs those that did not fail by themselves"
    if failed:
        remedy += ", and with hydra.sweeper.retry_failed=true the failed ones too"
    raise SweepFailed("\n".join([f"{len(others)} of {len(trials)} trials have no result; {remedy}:", *rows]))


@contextmanager
def passed_on(trials: Sequence[Trial]) -> Iterator[None]:
    """Send a signal on to the processes of this command that run trials, and let them save themselves."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for pid in own_processes(trials):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while own_processes(trials) and time.monotonic() < deadline:
            time.sleep(POLL)
        raise Interrupted(number, "its trials after a checkpoint; the same command goes on")

    previous = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def own_processes(trials: Sequence[Trial]) -> list[int]:
    """Return the processes, other than this one, that this command started here and that run a trial."""
    found = [holder(trial.folder) for trial in trials]
    here, command = socket.gethostname(), os.environ.get("VAE_LAB_RUN", "")
    return [who.pid for who in found if who and who.pid != os.getpid() and (who.host, who.command) == (here, command)]

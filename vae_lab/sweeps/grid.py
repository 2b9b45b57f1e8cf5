"""Grid sweeps: trials without an outcome are launched until all have one."""

import hashlib
import json
import logging
import os
import shlex
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import yaml

from vae_lab.errors import Interrupted, SweepFailed
from vae_lab.reporting.untrusted_files import read_yaml
from vae_lab.runs.folder import FAILURES, KILLED, MISSING, OUTDATED, State, read_summary
from vae_lab.runs.identity import describe_changes, differences, images_digest
from vae_lab.sweeps.trial import Trial, put_aside, settle, short_names
from vae_lab.system.config_dir import CONF
from vae_lab.system.error_text import reason
from vae_lab.system.locks import hold, holder
from vae_lab.system.masking import masked
from vae_lab.system.quoting import command_line, key, quote_override
from vae_lab.system.reading import Unreadable
from vae_lab.system.signals import EndAtOnce, handled_signals

log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Trial]], None]
POLL = 0.5  # seconds between two looks at trials that other processes run
PATIENCE = 60.0  # seconds in which a trial that is asked to stop may save itself
RANKED, TESTED = "val/neg_elbo", "test/neg_elbo"
LISTED = 20
"""Rows of the table at a sweep's end."""
NOT_OF_IMAGES = ("batch_size", "eval_batch_size", "seed")
"""Settings of `data` that change no image and no part."""


def sweep_name(fixed: Sequence[str], swept: Sequence[str]) -> str:
    """Return the folder's name of a sweep that was given none: what is swept, and a hash of all that is fixed."""
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
    """Launch the trials that have no outcome, wait for those that others run, and run what they give up.

    Args:
        trials: the whole sweep.
        launch: runs some trials; it returns, or raises, when it can do no more for them.
        shared_fate: whether the launcher lets one dead process take the others with it, so that several that died
            together are launched once more, one by one.
        retry_failed: whether a recorded failure is to be tried again.
        configs: the config of each trial as it is composed, by its folder, to name what has changed.

    Raises:
        SweepFailed: if a trial has no result in the end.
    """
    free_outdated(trials, configs)
    due = [trial for trial in trials if trial.is_hole(retry_failed=retry_failed)]
    log.info("%d trials, %d to run, in %s", len(trials), len(due), trials[0].folder.parent)
    with passed_on(trials):
        work_off(due, launch, shared_fate=shared_fate)
        wait(trials)
        free_outdated(trials, configs)
        given_up = [trial for trial in trials if trial not in due and trial.is_hole()]
        if given_up:  # as by the workers of a driver that was killed, which save what they have and end
            log.info("%d to run that another process has given up", len(given_up))
            work_off(given_up, launch, shared_fate=shared_fate)
    conclude(trials)


def free_outdated(trials: Sequence[Trial], configs: Mapping[Path, object]) -> None:
    """Put aside what was made of other settings or images than the trials now have, and say so."""
    for trial in trials:
        if trial.state().status != OUTDATED:
            continue
        with hold(trial.folder) as mine:
            other = trial.made_of_other()
            if not mine or not other:  # another process has begun it, or has put it aside, in between
                continue
            if other == "settings":
                other = changed_settings(trial.folder, configs.get(trial.folder)) or other
            line = "trial %s was made with other %s; that is kept in %s, and the trial is trained anew"
            log.warning(line, trial.name, other, put_aside(trial.folder))


def changed_settings(folder: Path, config: object) -> str:
    """Return in words what a run's config and one that is composed now do not share; "" if that is not known."""
    try:
        before = read_yaml(folder / ".hydra" / "config.yaml")
    except Unreadable:
        return ""
    changes = describe_changes(differences(before, config)) if config else ""
    return changes and f"settings: {changes}"


def with_images(trials: Sequence[Trial], configs: Mapping[Path, Any]) -> list[Trial]:
    """Return the trials, those that have left something with the digest of the images that their configs now name.

    Images that several trials share are decoded once. Where they cannot be read, a warning says that they are not
    compared: the process that starts a sweep need not see what the machines of its trials see.

    Args:
        trials: all of them.
        configs: the resolved config of each, by its folder.
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
    """Return the digest of the images of a `data` config; "", with a warning, if they cannot be read here."""
    from vae_lab.runs.load import fingerprint

    try:
        return images_digest(fingerprint(config)) or ""
    except Exception as error:  # whatever it is, a trial that trains on them will tell
        line = "the images cannot be compared with those of finished trials, whose settings alone decide: %s"
        log.warning(line, reason(error))
        return ""


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
                log.info("waiting for trial %s, which process %d on %s runs", trial.name, who.pid, who.host)
                told = True
            time.sleep(POLL)


def conclude(trials: Sequence[Trial]) -> None:
    """Log how many trials are completed, and raise SweepFailed with the reason of every one that is not well."""
    states: dict[Trial, State] = {trial: trial.state() for trial in trials}
    counts = Counter(state.status for state in states.values())
    folder = trials[0].folder.parent
    report = command_line("report", [quote_override("runs", folder)])
    log.info("%d of %d trials completed; %s", counts["completed"], len(trials), report)
    for line in ranked(states):
        log.info("%s", line)
    for sentence in findings([trial for trial, state in states.items() if state.status == "completed"]):
        log.info("%s", sentence)
    if counts["fast_dev_run"]:
        log.info("%d trials worked as trainer.fast_dev_run, which keeps nothing", counts["fast_dev_run"])
    well = ("completed", "fast_dev_run")
    others = {trial: state for trial, state in states.items() if state.status not in well}
    if not others:
        return
    common = set.intersection(*(set(trial.overrides) for trial in trials))
    rows = [
        f"  {trial.name} {state.status}: {state.reason or 'never begun'}"
        f" ({shlex.join(text for text in trial.overrides if text not in common)})"
        for trial, state in others.items()
    ]
    failed = sum(counts[status] for status in FAILURES)
    remedy = "the same command again runs those that did not fail by themselves"
    if failed:
        remedy += ", and with hydra.sweeper.retry_failed=true the failed ones too"
    if counts["stopped"]:
        remedy += "; for those that were stopped choose a longer trainer.max_time"
    raise SweepFailed("\n".join([f"{len(others)} of {len(trials)} trials have no result; {remedy}:", *rows]))


def ranked(states: Mapping[Trial, State]) -> list[str]:
    """Return a table of the trials, the best validation first; of many trials the first ones.

    Args:
        states: of the trials.
    """
    numbers = {trial: read_summary(trial.folder) for trial, state in states.items() if state.status == "completed"}
    known = [trial for trial, summary in numbers.items() if isinstance(summary.get(RANKED), float)]
    best = sorted(known, key=lambda trial: numbers[trial][RANKED])[:LISTED]
    if len(best) < 2:
        return []
    names = {trial: short_names(trial.swept) or trial.folder.name for trial in best}
    width = max(map(len, [*names.values(), "trial"]))
    rows = [f"{'trial':{width}s}  {RANKED}  {TESTED}"]
    for trial, name in names.items():
        tested = numbers[trial].get(TESTED)
        shown = f"{tested:.2f}" if isinstance(tested, float) else "-"
        rows.append(f"{name:{width}s}  {numbers[trial][RANKED]:{len(RANKED)}.2f}  {shown:>{len(TESTED)}s}")
    if len(known) > len(best):
        rows.append(f"and {len(known) - len(best)} more, which the report has")
    return rows


def rows_of_grid(overrides: Sequence[Any], zipped: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the overrides of each point of a grid; settings that are zipped change together.

    Args:
        overrides: parsed by Hydra, in the order in which they were typed.
        zipped: groups of keys, each of which has as many values as the others of its group.

    Raises:
        ValueError: if a zipped key is not swept, is in two groups, or has another number of values.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        name = override.get_key_element()
        swept = override.is_sweep_override()
        texts = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
        values[name] = [f"{name}={text}" for text in texts]
    group_of: dict[str, Sequence[str]] = {}
    for group in zipped:
        counts = {name: len(values.get(name, ())) for name in group}
        if min(counts.values(), default=0) < 2 or len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {n}" for name, n in counts.items())
            raise ValueError(f"hydra.sweeper.zip: zipped settings need as many values as each other ({said}).")
        if repeated := [name for name in group if name in group_of]:
            raise ValueError(f"hydra.sweeper.zip: {repeated[0]} is in two groups.")
        group_of |= dict.fromkeys(group, group)
    axes: list[list[tuple[str, ...]]] = []
    for name in values:
        group = group_of.get(name, (name,))
        if name == next(key for key in values if key in group):  # the others of its group come with it
            axes.append(list(zip(*(values[key] for key in values if key in group), strict=True)))
    return [tuple(text for part in point for text in part) for point in product(*axes)]


def findings(trials: Sequence[Trial]) -> list[str]:
    """Return what the report of some trials would say first, with the settings of conf/report.yaml."""
    if not trials:
        return []
    from vae_lab.reporting.html import summarised
    from vae_lab.reporting.run_records import read_runs

    how: dict[str, Any] = yaml.safe_load((CONF / "report.yaml").read_text(encoding="utf-8"))
    runs = read_runs([trial.folder for trial in trials])
    report = summarised(runs, "", how["metric"], how["ignored"], lowest=how["mode"] == "min")
    return report.sentences if any(cell.mean is not None for cell in report.cells) else []


class PassOn(EndAtOnce):
    """Sends signals on to the processes of this command that run trials, lets them save themselves, and raises.

    Args:
        trials: the whole sweep.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__("its trials after a checkpoint; the same command goes on")
        self.trials = trials

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Send the signal on, and the first time wait.

        Raises:
            Interrupted: with the signal's number.
        """
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
    """Send a signal on to the processes of this command that run trials, and let them save themselves."""
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
    """Return the processes, other than this one, that this command started here and that run a trial."""
    found = [holder(trial.folder) for trial in trials]
    here, command = socket.gethostname(), os.environ.get("VAE_LAB_RUN", "")
    return [who.pid for who in found if who and who.pid != os.getpid() and (who.host, who.command) == (here, command)]

"""The threads per trial and the number of parallel trials for each launcher, within the number of CPU cores."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_lab.system.masking import masked
from vae_lab.system.threads import (
    AUTO,
    OMP,
    Threads,
    allowed_cores,
    check_threads,
    decide_threads,
    keep_threads,
    kept_threads,
    measured_threads,
)

log = logging.getLogger(__name__)

JOBLIB, LOCAL = "JoblibLauncher", "LocalLauncher"
SUBMITIT = (LOCAL, "SlurmLauncher")


def launcher_name(hydra: Any) -> str:  # noqa: ANN401
    """Return the class name of the launcher, from the `hydra` part of a config."""
    return str(hydra.launcher.get("_target_", "")).rpartition(".")[2]


def shares_fate(hydra: Any) -> bool:  # noqa: ANN401
    """Return whether the launcher ends all its processes if one of them dies, as joblib's pool does."""
    return launcher_name(hydra) == JOBLIB


def warn_of_pickles(grid: Sequence[Sequence[str]], hydra: Any, folder: Path) -> None:  # noqa: ANN401
    """Log a warning if the launcher stores secrets of the command line in files for its jobs, as submitit does."""
    if launcher_name(hydra) in SUBMITIT and any(masked(list(texts)) != list(texts) for texts in grid):
        line = "the secrets in these settings lie in %s; name them as ${oc.env:…} to keep them in the environment"
        log.warning(line, folder / ".submitit")


def settle_trial_threads(hydra: Any, settings: Sequence[int | str], folder: Path, ndevices: int = 1) -> list[int]:  # noqa: ANN401
    """Return the number of threads of each trial, and set the number of parallel trials in the config.

    The first driver of a sweep decides what `auto` is for all trials, and writes it to the sweep's folder.

    Args:
        hydra: the `hydra` part of the config.
        settings: "auto" or a number, for each trial.
        folder: the sweep's folder.
        ndevices: number of processes of a trial.

    Raises:
        ValueError: if a setting is invalid, hydra.job.env_set has a number too, or there are too few cores.
    """
    for setting in settings:
        check_threads(setting)
    if OMP in hydra.job.env_set:
        raise ValueError(f"hydra.job.env_set.{OMP}={hydra.job.env_set[OMP]}: set threads= instead.")
    typed = [int(setting) for setting in settings if setting != AUTO]
    auto = Threads(1, "")
    if len(typed) < len(settings):
        auto = decide_threads(AUTO, lambda: auto_threads(hydra, ndevices), kept_threads(folder))
    adapt(hydra, max([auto.number, *typed]) * ndevices)
    if len(typed) < len(settings):
        folder.mkdir(parents=True, exist_ok=True)
        auto = keep_threads(folder, auto)
        log.info("%s for each trial", auto)
    return [auto.number if setting == AUTO else int(setting) for setting in settings]


def auto_threads(hydra: Any, ndevices: int) -> Threads:  # noqa: ANN401
    """Return the number of threads of a trial with threads=auto, and how it was chosen.

    If the launcher requests cores for each trial, it is their number per process. It is 1 if joblib runs as many trials
    as there are cores, else the fastest number measured within the trial's share of the cores.
    """
    given = cores_of_trial(hydra)
    if given is not None:
        return Threads(max(1, given[1] // ndevices), f"auto: {given[0]}={given[1]}")
    ntrials = hydra.launcher.n_jobs if launcher_name(hydra) == JOBLIB else 1
    if not isinstance(ntrials, int) or ntrials < 1:
        return Threads(1, "auto: as many trials at once as there are cores")
    return measured_threads(allowed_cores() // (ntrials * ndevices))


def cores_of_trial(hydra: Any) -> tuple[str, int] | None:  # noqa: ANN401
    """Return the setting by which a launcher requests CPU cores for a trial, and its value; None if it is not set."""
    name, number = "hydra.launcher.cpus_per_task", hydra.launcher.get("cpus_per_task")
    if "ray" in hydra.launcher:
        name, number = "hydra.launcher.ray.remote.num_cpus", hydra.launcher.ray.remote.get("num_cpus")
    return None if number is None else (name, int(number))


def adapt(hydra: Any, threads: int) -> None:  # noqa: ANN401
    """Set the number of parallel trials in the config for joblib's launcher and for submitit's local launcher.

    Args:
        hydra: the `hydra` part of the config.
        threads: those of a trial, in all its processes.

    Raises:
        ValueError: if the number that is set, times the threads of each trial, is above the number of cores.
    """
    name, given = launcher_name(hydra), cores_of_trial(hydra)
    if name not in (JOBLIB, LOCAL):
        if given is not None and threads > given[1]:
            log.warning("a trial has %d threads and %s=%d cores; raise that", threads, *given)
        return
    node, setting = (hydra.launcher, "n_jobs") if name == JOBLIB else (hydra.sweeper, "max_batch_size")
    ncores, asked = allowed_cores(), node[setting]
    if asked is None or asked == -1:
        asked = max(1, ncores // threads)
    if asked < 1 or asked * threads > ncores:
        part = "launcher" if name == JOBLIB else "sweeper"
        raise ValueError(
            f"hydra.{part}.{setting}={asked} with {threads} threads each needs {asked * threads} cores, and there are"
            f" {ncores}; lower it, or threads."
        )
    node[setting] = asked

"""How many trials a launcher may run at once on this machine: trials times threads never exceed its cores."""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vae_lab.system.masking import masked

log = logging.getLogger(__name__)

JOBLIB, LOCAL = "JoblibLauncher", "LocalLauncher"
SUBMITIT = (LOCAL, "SlurmLauncher")


def launcher_name(hydra: Any) -> str:  # noqa: ANN401
    """Return the name of the launcher's class, from the `hydra` part of a config."""
    return str(hydra.launcher.get("_target_", "")).rpartition(".")[2]


def shares_fate(hydra: Any) -> bool:  # noqa: ANN401
    """Return whether a process that dies takes the others of its launcher with it: joblib's pool then ends."""
    return launcher_name(hydra) == JOBLIB


def warn_of_pickles(grid: Sequence[Sequence[str]], hydra: Any, folder: Path) -> None:  # noqa: ANN401
    """Say where a launcher keeps the secrets that trials were given on the command line: its jobs need them."""
    if launcher_name(hydra) in SUBMITIT and any(masked(list(texts)) != list(texts) for texts in grid):
        line = "the secrets in these settings lie in %s; name them as ${oc.env:…} to keep them in the environment"
        log.warning(line, folder / ".submitit")


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process signalled when its parent ends, however: joblib's workers would wait for it for ever."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trials_at_once(hydra: Any, ndevices: int = 1) -> int | None:  # noqa: ANN401
    """Return how many trials to run at once here, or None where another machine decides, or there is only one process.

    Raises:
        ValueError: if the number that was asked for, times the threads of each, is above the cores.
    """
    name = launcher_name(hydra)
    if name not in (JOBLIB, LOCAL):
        return None
    threads = int(hydra.job.env_set.get("OMP_NUM_THREADS", 1)) * ndevices
    setting = "hydra.launcher.n_jobs" if name == JOBLIB else "hydra.sweeper.max_batch_size"
    asked = hydra.launcher.n_jobs if name == JOBLIB else hydra.sweeper.max_batch_size
    if asked is None or asked == -1:
        asked = max(1, cores() // threads)
    if asked < 1 or asked * threads > cores():
        raise ValueError(
            f"{setting}={asked} with {threads} threads each needs {asked * threads} cores, and there are {cores()};"
            f" lower it, or hydra.job.env_set.OMP_NUM_THREADS."
        )
    return asked


def adapt(hydra: Any, ndevices: int) -> None:  # noqa: ANN401
    """Put into a config how many trials run at once."""
    number = trials_at_once(hydra, ndevices)
    if number is not None and launcher_name(hydra) == JOBLIB:
        hydra.launcher.n_jobs = number
    elif number is not None:
        hydra.sweeper.max_batch_size = number

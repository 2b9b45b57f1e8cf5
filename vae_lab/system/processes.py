"""The rank and world size of this process, read from the variables of torchrun or Slurm."""

import ctypes
import os
import re
import signal
import sys
from typing import NamedTuple


class Ranks(NamedTuple):
    """The rank of this process, the number of processes of its run, and their number on this machine.

    Attributes:
        rank: number of this process; only rank 0 logs and writes.
        size: number of processes.
        local_size: number of processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1


TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
READ_BY_LIGHTNING = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that Lightning parses as integers when it is imported."""
SIZES = {"SLURM_NTASKS": "srun", "OMPI_COMM_WORLD_SIZE": "torchrun", "PMI_SIZE": "torchrun", "WORLD_SIZE": "torchrun"}
"""Variables that give a number of processes but do not start a distributed run, and the program that starts one."""


def ranks() -> Ranks:
    """Return the rank and the numbers of processes set by torchrun or `srun`; rank 0 of 1 without them.

    Slurm's batch scripts also see the number of tasks; only the tasks of a step, started by `srun`, are processes.

    Raises:
        ValueError: if a variable is not a whole number.
    """
    for name in READ_BY_LIGHTNING:
        if name in os.environ:
            _number(name)
    if by_torchrun():
        return Ranks(_number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE"))
    if "SLURM_STEP_NUM_TASKS" in os.environ and _number("SLURM_STEP_NUM_TASKS") > 1:
        per_node = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # as in 4(x2)
        return Ranks(_number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS"), int(per_node[0] if per_node else 1))
    return Ranks()


def by_torchrun() -> bool:
    """Return whether torchrun started this process: only then are all of its environment variables set."""
    return set(TORCHRUN) <= set(os.environ)


def size_warning() -> str | None:
    """Return a warning if a variable asks for several processes but this one runs alone, else None.

    A process that followed a leftover variable would wait forever for processes that were never started.
    """
    if ranks().size > 1:
        return None
    for name, starter in SIZES.items():
        value = os.environ.get(name, "1")
        if value not in ("", "1"):
            return (
                f"{name}={value} is ignored and this process trains alone; start it with {starter} to train on several."
            )
    return None


def _number(name: str) -> int:
    """Return the value of an environment variable as an integer, or raise ValueError."""
    value = os.environ.get(name, "")
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"{name}={value}: torchrun and srun set it to a whole number; unset it, or use them."
        ) from None


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process a signal when its parent process ends (Linux only).

    Without it, joblib's workers would wait for their parent forever.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)

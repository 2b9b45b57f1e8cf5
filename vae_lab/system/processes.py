"""Rank and world size of this process, from torchrun's or Slurm's variables."""

import ctypes
import os
import re
import signal
import sys
from typing import NamedTuple


class Ranks(NamedTuple):
    """A process among those of one run.

    Attributes:
        rank: its number; number 0 alone logs and writes.
        size: how many there are.
        local_size: how many of them are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1


TORCHRUN = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
READ_BY_LIGHTNING = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables that Lightning takes for numbers when it is imported, whoever has set them."""
SIZES = {"SLURM_NTASKS": "srun", "OMPI_COMM_WORLD_SIZE": "torchrun", "PMI_SIZE": "torchrun", "WORLD_SIZE": "torchrun"}
"""Variables with a number of processes that are not followed by themselves, and what starts processes that are."""


def ranks() -> Ranks:
    """Return what torchrun has put into the environment, or `srun`; a run of one process if neither has.

    Slurm's batch scripts see the job's number of tasks as well; only a step's, which `srun` makes, are processes.

    Raises:
        ValueError: if a variable is no number.
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
    """Return whether torchrun started this process; one variable alone is left over from something else."""
    return set(TORCHRUN) <= set(os.environ)


def unheeded() -> str | None:
    """Return a sentence on a variable that asks for several processes and is not followed, or None.

    A process that is started alone in a shell with leftovers of such variables would wait for the others for ever.
    """
    if ranks().size > 1:
        return None
    for name, starter in SIZES.items():
        value = os.environ.get(name, "1")
        if value not in ("", "1"):
            return (
                f"{name}={value} is ignored, this process trains alone: {starter} starts several that train together."
            )
    return None


def _number(name: str) -> int:
    """Return a variable's number.

    Raises:
        ValueError: if it is none.
    """
    value = os.environ.get(name, "")
    try:
        return int(value)
    except ValueError:
        raise ValueError(
            f"{name}={value}: torchrun and srun set it to a whole number; unset it, or use them."
        ) from None


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have this process signalled when its parent ends, however: joblib's workers would wait for it for ever."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)

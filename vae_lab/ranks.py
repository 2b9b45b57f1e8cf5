"""Which one this process is of those that train one model together, as torchrun or Slurm tells it."""

import os
import re
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


def ranks() -> Ranks:
    """Return what torchrun has put into the environment, or `srun`; a run of one process if neither has.

    Slurm's batch scripts see the job's number of tasks as well; only a step's, which `srun` makes, are processes.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return Ranks(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"]))
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        per_node = re.match(r"\d+", env["SLURM_STEP_TASKS_PER_NODE"])  # as in 4(x2)
        return Ranks(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(per_node[0] if per_node else 1))
    return Ranks()

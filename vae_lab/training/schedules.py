"""Learning-rate schedules that change at every optimizer step."""

import inspect
import logging
import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from vae_lab.errors import require_count, require_number

log = logging.getLogger(__name__)


def make_schedule(make: Callable[..., LRScheduler], optimizer: Optimizer, total_steps: int | float) -> LRScheduler:
    """Return the learning-rate schedule of an optimizer, made by a factory.

    Args:
        make: factory called with the optimizer, and with `total_steps` if it has this parameter without a value.
        optimizer: the optimizer.
        total_steps: optimizer steps of the whole training; infinite or -1 (Lightning's value) if it is unlimited.

    Raises:
        ValueError: if the schedule needs `total_steps` and training is unlimited.
    """
    if not takes_length(make):
        return make(optimizer)
    if not 1 <= total_steps < math.inf:
        name = getattr(getattr(make, "func", make), "__name__", "it")
        raise ValueError(
            f"schedule: {name} needs the length of training, which is unlimited; set trainer.max_steps or"
            " schedule.total_steps, or choose schedule=constant."
        )
    return make(optimizer, total_steps=int(total_steps))


def takes_length(make: Callable[..., LRScheduler]) -> bool:
    """Return whether a factory of schedules has a parameter `total_steps`, but was given no length yet."""
    given: dict[str, object] = getattr(make, "keywords", {})
    if given.get("total_steps") is not None or given.get("steps_per_epoch") is not None:
        return False
    return "total_steps" in inspect.signature(make).parameters


def warm_up_and_cosine(optimizer: Optimizer, *, warmup: int, floor: float, total_steps: int) -> LambdaLR:
    """Return a learning-rate schedule: a linear warm-up, then half a cosine period down to a share of the peak.

    Loshchilov and Hutter 2017, equation 5 with one cycle, https://arxiv.org/abs/1608.03983, after the linear warm-up of
    Goyal et al. 2017, https://arxiv.org/abs/1706.02677.

    Args:
        optimizer: the optimizer, whose learning rate is the peak.
        warmup: steps before the peak; the first step has 1 / (warmup + 1) of the peak.
        floor: learning rate at the end, as a share of the peak.
        total_steps: number of steps.

    Raises:
        ValueError: if a setting is out of range.
    """
    require_count("schedule.warmup", warmup, 0)
    require_number("schedule.floor", floor, "[0, 1]", "; it is a share of optimizer.lr")
    if warmup >= total_steps:
        log.warning("schedule.warmup=%d: training has %d steps and never reaches optimizer.lr", warmup, total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)

"""Seconds per image at several image sizes, which are measured in turn."""

import math
import time
from collections.abc import Callable

import torch

from vae_lab.profiling.workload import Setting, Workload
from vae_lab.system.progress import track
from vae_lab.system.randomness import seeded

TASKS = ("training", "generation")
SHORTEST = 0.1
"""Minimum duration of a measurement in seconds; short steps are repeated."""
FEWEST = 3
"""Minimum number of rounds."""


def timed(settings: dict[int, Setting], nrepeats: int, max_seconds: float) -> dict[str, dict[int, list[float]]]:
    """Return lists of seconds per image by task (training, generation) and image size, one value per repetition.

    Each round measures every size once, so that machine noise affects all sizes equally.
    """
    with seeded("profile"):
        workloads = {size: Workload(setting) for size, setting in settings.items()}
    tasks = {
        (name, size): getattr(load, verb)
        for name, verb in zip(TASKS, ("train", "generate"), strict=True)
        for size, load in workloads.items()
    }
    calls: dict[tuple[str, int], int] = {}
    for key, task in tasks.items():
        stopwatch(task, 1)  # warm-up
        calls[key] = max(1, min(50, math.ceil(SHORTEST / stopwatch(task, 1))))
    seconds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in settings} for name in TASKS}
    started = time.monotonic()
    for turn, (name, size) in track([(turn, key) for turn in range(nrepeats) for key in tasks], "timing"):
        if turn >= FEWEST and time.monotonic() - started > max_seconds and (name, size) == next(iter(tasks)):
            break
        taken = stopwatch(tasks[name, size], calls[name, size])
        seconds[name][size].append(taken / settings[size].batch_size)
    return seconds


def stopwatch(task: Callable[[], object], calls: int) -> float:
    """Return the mean duration of a call of `task` in seconds."""
    start = time.perf_counter()
    for _ in range(calls):
        task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls

"""The number of threads of a process, measured once at the start of a run.

Threads that wait for each other are faster than one only while each of them has a core. One other busy process on two
cores makes a training step many times slower with two threads than with one (docs/threads.md), so `auto` measures.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vae_lab.system.processes import ranks

log = logging.getLogger(__name__)

AUTO, OMP, TYPED = "auto", "OMP_NUM_THREADS", "as set"
EXPORTED = (OMP, "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables that tell the processes that this one starts."""
KEPT = "threads.json"
"""The file of a sweep or a study that holds the number of its first driver."""

TURNS = ((False, 0.008), (True, 0.020), (False, 0.008), (True, 0.020))
"""Whether all threads are timed, or one, and for how many seconds."""
OWN_CORES = 0.85
"""Share of their cores' time that threads must get to be worth it.

On two cores, two threads got 0.94 to 0.99 of it when nothing else ran, and 0.1 to 0.5 beside other processes.
"""


class Threads(NamedTuple):
    """A number of threads, and in words why it is that."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"threads={self.number} ({self.reason})"

    @property
    def is_news(self) -> bool:
        """Whether the user has not said the number."""
        return self.reason not in (TYPED, OMP)


class Measured(NamedTuple):
    """What was seen of a convolution: seconds with one thread, seconds with all, and the share of cores these got."""

    one: float
    many: float
    share: float


def check_threads(setting: object) -> None:
    """Raise ValueError unless the setting is auto or a number of threads."""
    if setting != AUTO and not _is_count(setting):
        raise ValueError(f"threads={setting}: choose auto, or a whole number of at least 1.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def allowed_cores() -> int:
    """Return how many cores this process may use, by its affinity and by its container's quota."""
    import joblib  # takes numpy along

    return joblib.cpu_count()


def decide_threads(setting: int | str, auto: Callable[[], Threads], kept: int | None = None) -> Threads:
    """Return how many threads a process computes with.

    A number that was typed comes first, then that of the run, sweep or study that goes on, then OMP_NUM_THREADS, which
    torchrun sets too.

    Args:
        setting: "auto" or a number.
        auto: decides where nobody has.
        kept: the number of what goes on; None for a new start.

    Raises:
        ValueError: if the setting is neither.
    """
    check_threads(setting)
    told = environment_threads()
    if setting != AUTO:
        if kept not in (None, setting):
            log.warning("threads=%s, and it was %s before: results may differ in their last bits", setting, kept)
        return Threads(int(setting), TYPED)
    if kept is None:
        return auto() if told is None else Threads(told, OMP)
    if told not in (None, kept):
        log.warning("%s=%s is not followed: it was %s before; type threads=%s to change it", OMP, told, kept, told)
    return Threads(kept, "as before")


def environment_threads() -> int | None:
    """Return the number in OMP_NUM_THREADS; None if there is none."""
    text = os.environ.get(OMP, "").partition(",")[0].strip()  # further numbers are for nested regions
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def use_threads(number: int, nprocesses: int = 1) -> None:
    """Compute with so many threads, here and in the processes that this one starts.

    Args:
        number: of threads.
        nprocesses: processes on this machine that each have as many.
    """
    import threadpoolctl
    import torch

    if number > 1 and number * nprocesses > (ncores := allowed_cores()):
        each = f" in each of {nprocesses} processes" if nprocesses > 1 else ""
        log.warning("threads=%d%s, and there are %d cores: threads wait for each other", number, each, ncores)
    os.environ |= dict.fromkeys(EXPORTED, str(number))
    torch.set_num_threads(number)
    threadpoolctl.threadpool_limits(number, user_api="blas")  # NumPy's read the environment when it was loaded


def threads_in_use(setting: int | str) -> int:
    """Return the number of threads of this process: the setting's, which it has from now on, or with "auto" its own.

    Commands decide before they train; this decides for calls of `vae_lab.train_run` from Python.

    Raises:
        ValueError: if the setting is neither.
    """
    import torch

    check_threads(setting)
    if setting not in (AUTO, torch.get_num_threads()):
        use_threads(int(setting))
    return torch.get_num_threads()


def measured_threads(most: int) -> Threads:
    """Return `most` or 1, whichever is faster now; all threads only if each has a core to itself.

    Processes that torchrun or Slurm has started side by side do not measure, as each would find another number: one
    thread each, or what Slurm has set aside.

    Args:
        most: threads to compare with one.
    """
    if ranks().size > 1:
        return Threads(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")), "auto: one of several processes")
    if most < 2:
        return Threads(1, "auto: one core for each process")
    return choose_threads(measure_convolution(most), most)


def choose_threads(measured: Measured, most: int) -> Threads:
    """Return `most` or 1, whichever is better by what was measured."""
    one, many, share = measured
    if share < OWN_CORES:
        return Threads(1, f"auto: {most} threads got {most * share:.1f} of {most} cores")
    reason = f"auto: a convolution took {1e3 * one:.2f} ms with one thread, {1e3 * many:.2f} ms with {most}"
    return Threads(most if many < one else 1, reason)


def measure_convolution(most: int) -> Measured:
    """Return what one thread and what `most` make of a convolution of the 2018 network, taking turns.

    It has 8 images, so that turns of few milliseconds hold many. Seconds are means, which count the waiting that
    medians leave out. On a busy machine they still depend on whose turn it just was; the share of the processors' time
    that all threads got does not, as threads that wait for each other keep their cores busy.
    """
    import torch

    image = torch.ones(8, 64, 15, 15).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 4, 4).to(memory_format=torch.channels_last)

    def convolve() -> None:
        torch.nn.functional.conv2d(image, weight, stride=2, padding=2)

    calls, seconds, worked = ({False: 0.0, True: 0.0} for _ in range(3))
    for every, least in TURNS:
        torch.set_num_threads(most if every else 1)
        convolve()  # wakes the threads
        start, spent = time.perf_counter(), time.process_time()
        while (taken := time.perf_counter() - start) < least:
            convolve()
            calls[every] += 1
        seconds[every] += taken
        worked[every] += time.process_time() - spent
    return Measured(seconds[False] / calls[False], seconds[True] / calls[True], worked[True] / seconds[True] / most)


def kept_threads(folder: Path) -> int | None:
    """Return the number that the first driver of a sweep or a study has left in its folder; None if there is none."""
    try:
        number = json.loads((folder / KEPT).read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number if _is_count(number) else None


def keep_threads(folder: Path, decided: Threads) -> Threads:
    """Leave the number in the folder of a sweep or a study; return it, or that of another driver which came first."""
    try:
        with (folder / KEPT).open("x", encoding="utf-8") as file:
            json.dump({"threads": decided.number, "reason": decided.reason}, file)
    except FileExistsError:
        first = kept_threads(folder)
        return decided if first is None else decided._replace(number=first)
    return decided

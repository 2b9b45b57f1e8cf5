"""Choice of the number of CPU threads of a process, by a measurement at the start of a run.

Several threads are faster than one only if each has a core to itself. If another process uses one of two cores, a
training step is many times slower with two threads than with one (docs/threads.md), so `auto` measures.
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
"""Variables that set the number of threads of child processes."""
KEPT = "threads.json"
"""The file in the folder of a sweep or study that stores the number of threads of its first driver."""

TURNS = ((False, 0.008), (True, 0.020), (False, 0.008), (True, 0.020))
"""The timed turns: whether all threads or one is timed, and for how many seconds."""
OWN_CORES = 0.85
"""Minimum share of their cores' CPU time that threads must get.

On two cores, two threads got a share of 0.94 to 0.99 on an idle machine, and 0.1 to 0.5 beside other processes.
"""


class Threads(NamedTuple):
    """A number of CPU threads, and the reason why it was chosen."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"threads={self.number} ({self.reason})"

    @property
    def is_news(self) -> bool:
        """Whether the number is new to the user: it comes neither from `threads=` nor from OMP_NUM_THREADS."""
        return self.reason not in (TYPED, OMP)


class Measured(NamedTuple):
    """The mean seconds of a convolution with one and with all threads, and the share of CPU time that all got."""

    one: float
    many: float
    share: float


def check_threads(setting: object) -> None:
    """Raise ValueError unless the setting `threads` is "auto" or a whole number of at least 1."""
    if setting != AUTO and not _is_count(setting):
        raise ValueError(f"threads={setting}: choose auto, or a whole number of at least 1.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def allowed_cores() -> int:
    """Return the number of CPU cores that the CPU affinity and the container's quota allow this process."""
    import joblib  # imports numpy

    return joblib.cpu_count()


def decide_threads(setting: int | str, auto: Callable[[], Threads], kept: int | None = None) -> Threads:
    """Return the number of CPU threads that this process is to use, with the reason.

    It is the first of these that is known: the setting, the number of the run, sweep or study that is resumed,
    OMP_NUM_THREADS (which torchrun sets too), the result of `auto`.

    Args:
        setting: "auto" or a number.
        auto: returns the number if nothing else sets it.
        kept: the number of the run, sweep or study that is resumed; None for a new one.

    Raises:
        ValueError: if the setting is invalid.
    """
    check_threads(setting)
    exported = environment_threads()
    if setting != AUTO:
        if kept not in (None, setting):
            log.warning("threads=%s instead of %s as before: results may differ in their last bits", setting, kept)
        return Threads(int(setting), TYPED)
    if kept is None:
        return auto() if exported is None else Threads(exported, OMP)
    if exported not in (None, kept):
        log.warning(
            "%s=%s is ignored: the run began with threads=%s; type threads=%s to change it",
            OMP,
            exported,
            kept,
            exported,
        )
    return Threads(kept, "as before")


def environment_threads() -> int | None:
    """Return the number in the variable OMP_NUM_THREADS, or None if it is unset or invalid."""
    text = os.environ.get(OMP, "").partition(",")[0].strip()  # further numbers are for nested regions
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def use_threads(number: int, nprocesses: int = 1) -> None:
    """Set the number of CPU threads of this process and of the child processes that it starts later.

    Args:
        number: of threads.
        nprocesses: processes on this machine that use this number each, for a warning.
    """
    import threadpoolctl
    import torch

    if number > 1 and number * nprocesses > (ncores := allowed_cores()):
        each = f" in each of {nprocesses} processes" if nprocesses > 1 else ""
        log.warning("threads=%d%s is more than the %d cores: threads wait for each other", number, each, ncores)
    os.environ |= dict.fromkeys(EXPORTED, str(number))
    torch.set_num_threads(number)
    threadpoolctl.threadpool_limits(number, user_api="blas")  # NumPy read the environment at its import


def threads_in_use(setting: int | str) -> int:
    """Return the number of threads of this process, after setting it if `setting` is a number instead of "auto".

    Commands set the number before they train; this function sets it for calls of `vae_lab.train_run` from Python.

    Raises:
        ValueError: if the setting is invalid.
    """
    import torch

    check_threads(setting)
    if setting not in (AUTO, torch.get_num_threads()):
        use_threads(int(setting))
    return torch.get_num_threads()


def measured_threads(most: int) -> Threads:
    """Return `most` threads if a measurement shows that they are faster than one, else 1 thread.

    Processes that torchrun or Slurm has started together do not measure, because each could find another number. They
    use one thread each, or SLURM_CPUS_PER_TASK.
    """
    if ranks().size > 1:
        return Threads(int(os.environ.get("SLURM_CPUS_PER_TASK", "1")), "auto: one of several processes")
    if most < 2:
        return Threads(1, "auto: one core for each process")
    return choose_threads(measure_convolution(most), most)


def choose_threads(measured: Measured, most: int) -> Threads:
    """Return `most` threads if each had a core to itself and they were faster than one thread, else 1 thread."""
    one, many, share = measured
    if share < OWN_CORES:
        return Threads(1, f"auto: {most} threads got {most * share:.1f} of {most} cores")
    reason = f"auto: a convolution took {1e3 * one:.2f} ms with one thread, {1e3 * many:.2f} ms with {most}"
    return Threads(most if many < one else 1, reason)


def measure_convolution(most: int) -> Measured:
    """Return the timing of a convolution, measured alternately with one thread and with `most` threads.

    The convolution is one of the 2018 network. The batch has only 8 images, so that a turn of a few milliseconds holds
    many calls. Seconds are means, because medians leave out the waiting. On a busy machine they still depend on what
    others do in each turn. The share of CPU time that all threads got is more reliable, because threads that wait for
    each other keep their cores busy.
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
    """Return the number of threads stored in the folder of a sweep or study, or None if there is none."""
    try:
        number = json.loads((folder / KEPT).read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number if _is_count(number) else None


def keep_threads(folder: Path, decided: Threads) -> Threads:
    """Store the number of threads in the folder of a sweep or study, unless it holds one; return the stored one."""
    try:
        with (folder / KEPT).open("x", encoding="utf-8") as file:
            json.dump({"threads": decided.number, "reason": decided.reason}, file)
    except FileExistsError:
        first = kept_threads(folder)
        return decided if first is None else decided._replace(number=first)
    return decided

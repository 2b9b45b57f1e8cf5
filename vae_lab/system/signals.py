"""Handling of the signals that end a command, such as Ctrl-C and SIGTERM."""

import signal
import threading
import time
from types import FrameType

from vae_lab.errors import Interrupted

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS: tuple[signal.Signals, ...] = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Ctrl-C, end of a job, end of a terminal, a cluster's two warnings before a time limit, the kernel's CPU limit."""
CLEAN_UP = 10.0
"""Seconds for which a command that is ending ignores signals; a later signal ends its clean-up too."""


class EndAtOnce:
    """A signal handler that raises Interrupted at the first signal, and then ignores signals for a few seconds."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.since: float | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Raise Interrupted with the signal's number; do nothing if the command is already ending."""
        if not self.is_ending():
            self.begin()
            raise Interrupted(number, self.how)

    def begin(self) -> None:
        """Start the `CLEAN_UP` seconds in which the command ends and signals are ignored."""
        self.since = time.monotonic()

    def is_ending(self) -> bool:
        """Return whether the command is ending: `begin` was called in the last `CLEAN_UP` seconds."""
        return self.since is not None and time.monotonic() < self.since + CLEAN_UP


def handled_signals() -> list[signal.Signals]:
    """Return the signals for which a command installs handlers; [] outside the main thread.

    Python allows handlers in the main thread only. A signal that is ignored stays ignored, as `nohup` needs it, and
    submitit keeps the signal at which it requeues.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if not must_stay(signal.getsignal(number))]


def must_stay(handler: object) -> bool:
    """Return whether an installed handler must be left in place: SIG_IGN, or submitit's that requeues the job."""
    from_submitit = str(getattr(handler, "__module__", "")).partition(".")[0] == "submitit"
    return handler is signal.SIG_IGN or (from_submitit and getattr(handler, "__name__", "") != "bypass")


def ignore_signals() -> None:
    """Ignore all signals in `handled_signals()` until the process exits."""
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)

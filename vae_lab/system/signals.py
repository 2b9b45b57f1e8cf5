"""Signals that end a command."""

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
    """A signal handler that raises Interrupted, and ignores further signals while `finally` blocks clean up."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.since: float | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Raise Interrupted with the signal's number, unless the command is ending already."""
        if not self.is_ending():
            self.begin()
            raise Interrupted(number, self.how)

    def begin(self) -> None:
        """Ignore signals for the next `CLEAN_UP` seconds, because the command is ending."""
        self.since = time.monotonic()

    def is_ending(self) -> bool:
        """Return whether `begin` was called in the last `CLEAN_UP` seconds."""
        return self.since is not None and time.monotonic() < self.since + CLEAN_UP


def handled_signals() -> list[signal.Signals]:
    """Return the signals that a command handles; none outside the main thread, where Python allows no handlers.

    A signal that is ignored stays ignored, as `nohup` needs it, and submitit keeps the signal at which it requeues.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if not must_stay(signal.getsignal(number))]


def must_stay(handler: object) -> bool:
    """Return whether a handler must not be replaced: SIG_IGN, or the one with which submitit requeues a job."""
    from_submitit = str(getattr(handler, "__module__", "")).partition(".")[0] == "submitit"
    return handler is signal.SIG_IGN or (from_submitit and getattr(handler, "__name__", "") != "bypass")


def ignore_signals() -> None:
    """Ignore all signals of `handled_signals`, because the process is about to exit."""
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)

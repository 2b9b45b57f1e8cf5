"""Signals that end a command."""

import signal
import threading
import time
from types import FrameType

from vae_lab.errors import Interrupted

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS: tuple[signal.Signals, ...] = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
"""Ctrl-C, the end of a job, of a terminal, the warnings that clusters send before a limit, and that of the kernel."""
CLEAN_UP = 10.0
"""Seconds in which a command that ends ignores further signals; after that one ends its cleaning up as well."""


class EndAtOnce:
    """A handler that raises Interrupted, and ignores what comes while `finally` blocks clean up.

    Args:
        how: what the message says of the end.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.since: float | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """End the work, unless that is under way.

        Raises:
            Interrupted: with the signal's number.
        """
        if not self.is_ending():
            self.begin()
            raise Interrupted(number, self.how)

    def begin(self) -> None:
        """Ignore the signals of the next seconds: the end has come, whatever brought it."""
        self.since = time.monotonic()

    def is_ending(self) -> bool:
        """Return whether the end began so short a time ago that it is to be waited for."""
        return self.since is not None and time.monotonic() < self.since + CLEAN_UP


def heard() -> list[signal.Signals]:
    """Return the signals to listen to: none outside the main thread, and none that somebody else is to have.

    What was ignored stays ignored, as `nohup` has it, and in a job of submitit the signal at which it sends the job
    back to the queue stays with submitit.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets no other one listen
        return []
    return [number for number in SIGNALS if not belongs_to_others(signal.getsignal(number))]


def belongs_to_others(handler: object) -> bool:
    """Return whether a handler is to stay: that of a signal that is ignored, or one with which submitit requeues."""
    from_submitit = str(getattr(handler, "__module__", "")).partition(".")[0] == "submitit"
    return handler is signal.SIG_IGN or (from_submitit and getattr(handler, "__name__", "") != "bypass")


def ignore() -> None:
    """Ignore the signals from now on, in a process that is about to end with its code."""
    for number in heard():
        signal.signal(number, signal.SIG_IGN)

"""Ctrl-C, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU end a run in good order."""

import logging
import signal
from types import FrameType
from typing import Any

from lightning import Callback, Trainer

from vae_lab.system.signals import EndAtOnce, heard
from vae_lab.tasks.task import Task

log = logging.getLogger(__name__)


class GracefulStop(Callback):
    """Ends a run at a signal; it listens from `with GracefulStop() as stop` to the end of the block.

    In training, the first signal ends it after the batch in hand, with a last validation and checkpoint, and a second
    one ends it at once. Before and after training there is nothing to save, so the first signal ends the run at once.
    Lightning puts a handler of its own for SIGTERM whenever it begins to train or test; that one would let the run go
    on, or end it with code 0. So this callback listens again right after it, and is to be the first of all.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._task: Task | None = None
        self._end = EndAtOnce("before the first batch")
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        """Listen."""
        self._previous = {number: signal.getsignal(number) for number in heard()}
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers; an outer `EndAtOnce` handler is told that the run is ending."""
        for number, handler in self._previous.items():
            if isinstance(handler, EndAtOnce) and self._end.is_ending() and self.received is not None:
                handler.begin()
            signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Listen for the sake of a checkpoint."""
        self._task = pl_module
        self._end = EndAtOnce("at once; checkpoints are those of the last validation")
        self._listen()

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Note that there is nothing left to save."""
        self._task = None
        self._end = EndAtOnce("after training; checkpoints are those of the last validation")

    def on_test_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Listen again."""
        self._listen()

    def close(self) -> None:
        """Ignore signals for as long as the end of the run is written down."""
        self._end.begin()

    def _listen(self) -> None:
        for number in self._previous:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        repeated = number == self.received == getattr(signal, "SIGXCPU", None)  # the kernel sends one every second
        if self._task is None or (self.received is not None and not repeated):
            self.received = self.received or number
            self._end(number)
        elif not repeated:
            self.received = number
            self._task.stopping = True
            log.warning(
                "%s: saving and stopping after this batch; once more stops at once", signal.Signals(number).name
            )

"""Ctrl-C, SIGTERM and SIGHUP end a run in good order."""

import logging
import signal
import threading
from types import FrameType

from lightning import Callback, Trainer

from vae_lab.errors import Interrupted
from vae_lab.tasks.task import Task

log = logging.getLogger(__name__)

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class GracefulStop(Callback):
    """Ends training after the batch in hand, with a last validation and checkpoint; a second signal ends it at once.

    While testing, the first signal ends the run at once: there is nothing left to save.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._task: Task | None = None
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}  # before Lightning puts its own

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Listen, for the sake of a checkpoint."""
        self._listen(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Listen, to stop at once; Lightning has put its own handlers back."""
        self._listen(None)

    def restore(self) -> None:
        """Give the signals back to whoever had them before."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _listen(self, task: Task | None) -> None:
        self._task = task
        if threading.current_thread() is threading.main_thread():  # Python lets no other one listen
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or self._task is None:
            raise Interrupted(number, "at once; checkpoints are those of the last validation")
        self.received = number
        self._task.stopping = True
        log.warning("%s: saving and stopping after this batch; once more stops at once", signal.Signals(number).name)

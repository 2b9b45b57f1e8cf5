"""Ctrl-C, SIGTERM and SIGHUP end a run in good order."""

import logging
import signal
from types import FrameType

from lightning import Callback, LightningModule, Trainer

from vae_lab.tasks.vae import VAETask

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class GracefulStop(Callback):
    """On the first signal, ends training after the batch in hand, with a last validation and checkpoint.

    The second signal of a kind does what it would have done without this.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def on_train_start(self, trainer: Trainer, pl_module: VAETask) -> None:
        """Listen."""
        self._task = pl_module
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no longer."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._task.stopping = True
        signal.signal(number, self._previous[number])  # pyright: ignore[reportArgumentType]
        log.warning("%s: saving and stopping after this batch; once more stops at once", signal.Signals(number).name)

"""A validation and a checkpoint after Ctrl-C, SIGTERM and other signals."""

import logging
import signal
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from vae_lab.system.signals import EndAtOnce, handled_signals
from vae_lab.training.distributed.collectives import largest, several

log = logging.getLogger(__name__)

AGREE_EVERY = 10
"""Batches between two moments at which several processes agree whether to stop."""


class GracefulStop(Callback):
    """Ends a run at a signal; it listens from `with GracefulStop() as stop` to the end of the block.

    In training, the first signal ends it after the optimizer step in hand, with a last validation and checkpoint, and
    a second one ends it at once. Several processes end at the same batch, which they agree on now and then. Before and
    after training there is nothing to save, so the first signal ends the run at once.

    Lightning puts a handler of its own for SIGTERM whenever it begins to train or test; that one would let the run go
    on, or end it with code 0. So this callback listens again right after it, and is to be the first of all.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._training = False
        self._agreed = False
        self._end = EndAtOnce("before the first batch")
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "GracefulStop":
        """Listen."""
        self._previous = {number: signal.getsignal(number) for number in handled_signals()}
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers; an outer `EndAtOnce` handler is told that the run is ending."""
        for number, handler in self._previous.items():
            if isinstance(handler, EndAtOnce) and self._end.is_ending() and self.received is not None:
                handler.begin()
            signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for the sake of a checkpoint."""
        self._training = True
        self._end = EndAtOnce("at once; checkpoints are those of the last validation")
        self._listen()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """End training if a signal came."""
        if not several() or trainer.fit_loop.total_batch_idx % AGREE_EVERY == 0:
            self._agree(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End training if a signal came during a validation within it."""
        if self._training:
            self._agree(trainer, pl_module)

    def _agree(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End training in all processes if one had a signal, once no gradients are being accumulated.

        Lightning's minima do not count.
        """
        self._agreed = self._agreed or bool(largest(int(self.received is not None), pl_module.device))
        if self._agreed and not trainer.fit_loop._should_accumulate():  # noqa: SLF001
            trainer.fit_loop.min_epochs = 0
            trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is nothing left to save."""
        self._training = False
        self._end = EndAtOnce("after training; checkpoints are those of the last validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
        if not self._training or (self.received is not None and not repeated):
            self.received = self.received or number
            self._end(number)
        elif not repeated:
            self.received = number
            log.warning(
                "%s: saving and stopping after this batch; once more stops at once", signal.Signals(number).name
            )

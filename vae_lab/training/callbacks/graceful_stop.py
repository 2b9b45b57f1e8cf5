"""Stopping at Ctrl-C, SIGTERM and other signals, after a validation and a checkpoint."""

import logging
import signal
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from vae_lab.system.signals import EndAtOnce, handled_signals
from vae_lab.training.distributed.collectives import is_distributed, max_over_processes

log = logging.getLogger(__name__)

AGREE_EVERY = 10
"""Batches between two checks in which several processes agree whether to stop."""


class GracefulStop(Callback):
    """Ends a run when it receives a signal; its signal handlers are active inside a `with` block.

    During training, the first signal ends training after the current optimizer step, with a last validation and
    checkpoint; a second signal ends the run at once. Several processes stop at the same batch, on which they agree
    every `AGREE_EVERY` batches. Before and after training, the first signal ends the run at once.

    Lightning installs its own SIGTERM handler when training or testing begins, which would continue the run or end it
    with code 0. So this callback installs its handlers again right after that, and must be the first callback.

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
        """Install the signal handlers."""
        self._previous = {number: signal.getsignal(number) for number in handled_signals()}
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers, and notify an outer `EndAtOnce` if a signal is ending the run."""
        for number, handler in self._previous.items():
            if isinstance(handler, EndAtOnce) and self._end.is_ending() and self.received is not None:
                handler.begin()
            signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again; during training, the first signal leads to a validation and a checkpoint."""
        self._training = True
        self._end = EndAtOnce("at once; checkpoints are those of the last validation")
        self._listen()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """End training if a signal was received."""
        if not is_distributed() or trainer.fit_loop.total_batch_idx % AGREE_EVERY == 0:
            self._agree(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End training if a signal was received during a validation."""
        if self._training:
            self._agree(trainer, pl_module)

    def _agree(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop all processes after the current optimizer step if one of them has received a signal.

        Lightning's `min_epochs` and `min_steps` are ignored.
        """
        self._agreed = self._agreed or bool(max_over_processes(int(self.received is not None), pl_module.device))
        if self._agreed and not trainer.fit_loop._should_accumulate():  # noqa: SLF001
            trainer.fit_loop.min_epochs = 0
            trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the next signal end the run at once, because nothing is left to save."""
        self._training = False
        self._end = EndAtOnce("after training; checkpoints are those of the last validation")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again, because Lightning has replaced the one for SIGTERM."""
        self._listen()

    def close(self) -> None:
        """Ignore signals from now on, while the summary is written and the loggers are closed."""
        self._end.begin()

    def _listen(self) -> None:
        for number in self._previous:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        repeated = number == self.received == getattr(signal, "SIGXCPU", None)  # the kernel repeats it every second
        if not self._training or (self.received is not None and not repeated):
            self.received = self.received or number
            self._end(number)
        elif not repeated:
            self.received = number
            log.warning(
                "%s: saving and stopping after this batch; a second signal stops at once", signal.Signals(number).name
            )

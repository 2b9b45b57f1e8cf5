"""Where the seconds of a run go."""

import time

from lightning import Callback, LightningModule, Trainer


class Stopwatch(Callback):
    """Measures training without its validations and pictures.

    Attributes:
        fit: seconds from the first batch to the end of training, everything included.
        evaluation: seconds of those spent in validations, pictures and checkpoints.
        batches: training batches since the clock was started.
    """

    def __init__(self) -> None:
        self.fit = 0.0
        self.evaluation = 0.0
        self.batches = 0
        self._started = 0.0
        self._paused = 0.0

    @property
    def training(self) -> float:
        """Seconds spent on training batches alone."""
        return self.fit - self.evaluation

    @property
    def training_so_far(self) -> float:
        """Seconds spent on training batches up to now."""
        return time.perf_counter() - self._started - self.evaluation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        """Count the batch."""
        self.batches += 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when a validation began; the clocks of evaluation run until the next training batch or the end."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the validation; this callback comes last, so pictures and checkpoints are in it."""
        if not trainer.sanity_checking:
            self.evaluation += time.perf_counter() - self._paused

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self.fit = time.perf_counter() - self._started

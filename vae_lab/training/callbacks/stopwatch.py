"""Wall-clock time of training and of its validations, and images per second."""

import time

from lightning import Callback, LightningModule, Trainer

from vae_lab.data.sample import Batch, batch_size


class Stopwatch(Callback):
    """Measures the time of training, excluding validations and the figures and checkpoints after them.

    Attributes:
        fit: seconds from the first batch to the end of training, including validations.
        paused: seconds of `fit` not spent on training batches.
        images: training images since the start of the clock, over all processes.
    """

    def __init__(self) -> None:
        self.fit = 0.0
        self.paused = 0.0
        self.images = 0
        self._started = 0.0
        self._pause: float | None = None

    @property
    def training(self) -> float:
        """Seconds spent on training batches so far."""
        return (self.fit or time.perf_counter() - self._started) - self.paused

    @property
    def images_per_second(self) -> float:
        """Training images per second so far, over all processes."""
        return self.images / max(self.training, 1e-9)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Continue the clock if it was paused for a validation."""
        self._end_pause()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Count the images of the batch."""
        self.images += batch_size(batch) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause the clock for the validation."""
        self._pause = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if self._started and not self.fit:
            self._end_pause()
            self.fit = time.perf_counter() - self._started

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the clock after an error."""
        self.on_train_end(trainer, pl_module)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self.paused += time.perf_counter() - self._pause
            self._pause = None

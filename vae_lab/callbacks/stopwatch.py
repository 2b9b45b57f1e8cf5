"""Where the seconds of a run go."""

import time

from lightning import Callback, Trainer

from vae_lab.tasks.task import Task


class Stopwatch(Callback):
    """Measures training apart from its validations, pictures and checkpoints.

    Attributes:
        fit: seconds from the first batch to the end of training, everything included.
        training: seconds of those spent on training batches alone.
        batches: training batches since the clock was started.
    """

    def __init__(self) -> None:
        self.fit = 0.0
        self.training = 0.0
        self.batches = 0
        self._started = 0.0
        self._stretch = 0.0
        self._first = 0

    def images_per_second(self, task: Task, batch_size: int) -> float:
        """Return the training speed up to now, also in the middle of a stretch."""
        batches = self.batches + task.batches_seen - self._first
        return batches * batch_size / max(self.training + time.perf_counter() - self._stretch, 1e-9)

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        """Note when a stretch of batches began."""
        self._stretch, self._first = time.perf_counter(), pl_module.batches_seen

    def on_train_batch_end(self, trainer: Trainer, pl_module: Task, *_: object) -> None:
        """Add the stretch."""
        self.training += time.perf_counter() - self._stretch
        self.batches += pl_module.batches_seen - self._first

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Stop the clock."""
        self.fit = time.perf_counter() - self._started

    def on_exception(self, trainer: Trainer, pl_module: Task, exception: BaseException) -> None:
        """Stop the clock."""
        self.fit = self.fit or time.perf_counter() - self._started

"""What a person watching a run sees: a bar where there is a terminal, a line now and then where there is none."""

import logging
import sys
import time
from typing import Any

from lightning import Callback, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vae_lab.callbacks.stopwatch import Stopwatch
from vae_lab.tasks.task import Task

log = logging.getLogger(__name__)


class ProgressLine(Callback):
    """Shows batches done, loss and images per second, and logs one line for each validation.

    Args:
        every_seconds: time between two updates of the bar.
        line_every_seconds: time between two lines in a log that is no terminal.
        check_every: batches between two looks at the clock.
    """

    def __init__(self, every_seconds: float, line_every_seconds: float, check_every: int) -> None:
        self.terminal = sys.stdout.isatty()
        self.interval = every_seconds if self.terminal else line_every_seconds
        self.check_every = check_every
        self.bar: Progress | None = None
        self.bar_id = TaskID(0)
        self.next_update = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Open the bar and listen to batches."""
        self.next_update = time.monotonic() + self.interval
        if not trainer.is_global_zero:
            return
        pl_module.listeners.append(self.on_batch)
        if self.terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.bar = Progress(*columns, auto_refresh=False, transient=True)
            self.bar.start()
            self.bar_id = self.bar.add_task("training", total=pl_module.max_steps)

    def on_batch(self, task: Task) -> None:
        """Show where training stands, if it is time."""
        if task.batches_seen % self.check_every or time.monotonic() < self.next_update:
            return
        self.next_update = time.monotonic() + self.interval
        trainer: Any = task.trainer
        clock = next(callback for callback in trainer.callbacks if isinstance(callback, Stopwatch))
        speed = clock.images_per_second(task, trainer.datamodule.batch_size * trainer.world_size)
        loss = float("nan") if task.latest is None else task.latest.loss.detach().mean().item()
        if self.bar is None:
            log.info("batch %d of %d: loss %.2f, %.0f images/s", task.batches_seen, task.max_steps, loss, speed)
        else:
            note = f"loss {loss:.2f}, {speed:.0f} images/s"
            self.bar.update(self.bar_id, completed=task.batches_seen, description=note, refresh=True)

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Log the validation."""
        metrics = trainer.callback_metrics
        if trainer.is_global_zero and not trainer.sanity_checking:
            values = (float(metrics[f"val/{name}"]) for name in ("neg_elbo", "distortion", "rate", "sse_kl"))
            line = "batch %d: val/neg_elbo %.2f nats (distortion %.2f + rate %.2f), val/sse_kl %.2f"
            log.info(line, pl_module.batches_seen, *values)

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: Task, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

"""The progress bar of a run."""

import logging
import math
import sys
import time
from collections.abc import Mapping

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from vae_lab.training.callbacks.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class ProgressLine(ProgressBar):
    """Shows steps, loss and images per second over the whole run, and logs a line at each validation.

    The loss is read only when it is shown, because reading it synchronizes with the GPU.

    Args:
        every_seconds: seconds between two updates of the bar on a terminal.
        line_every_seconds: seconds between two log lines elsewhere.
    """

    def __init__(self, every_seconds: float, line_every_seconds: float) -> None:
        super().__init__()
        self.terminal = sys.stdout.isatty()
        self.interval = every_seconds if self.terminal else line_every_seconds
        self.bar: Progress | None = None
        self.bar_id = TaskID(0)
        self.next_update = 0.0
        self.started = (0.0, 0)
        self.enabled = True

    def enable(self) -> None:
        """Show progress again."""
        self.enabled = True

    def disable(self) -> None:
        """Stop showing progress."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the progress bar if the output is a terminal."""
        self.next_update = time.monotonic() + self.interval
        done, total = progress_of(trainer)
        self.started = (time.monotonic(), done)
        if trainer.is_global_zero and self.terminal and self.enabled:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.bar = Progress(*columns, auto_refresh=False, transient=True)
            self.bar.start()
            self.bar_id = self.bar.add_task("training", total=total, completed=done)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Show steps, loss and images per second if `interval` seconds have passed since the last time."""
        if time.monotonic() < self.next_update or not trainer.is_global_zero or not self.enabled:
            return
        self.next_update = time.monotonic() + self.interval
        clock = next(one for one in trainer.callbacks if isinstance(one, Stopwatch))  # pyright: ignore[reportAttributeAccessIssue]
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        shown = float(loss) if isinstance(loss, Tensor | float) else math.nan
        note = f"loss {shown:.2f}, {clock.images_per_second:.0f} images/s"
        done, total = progress_of(trainer)
        if self.bar is None:
            log.info(
                "step %d%s: %s%s", done, "" if total is None else f" of {total}", note, self.remaining(done, total)
            )
        else:
            self.bar.update(self.bar_id, completed=done, description=note, refresh=True)

    def remaining(self, done: int, total: int | None) -> str:
        """Return the phrase ", about 5 min left" from the mean time per step so far; "" if the end is unknown."""
        began, first = self.started
        if total is None or done <= first:
            return ""
        seconds = (time.monotonic() - began) / (done - first) * (total - done)
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation metrics."""
        metrics = trainer.callback_metrics
        names = ("neg_elbo", "distortion", "rate", "sse_kl")
        if trainer.is_global_zero and not trainer.sanity_checking and all(f"val/{name}" in metrics for name in names):
            values = (float(metrics[f"val/{name}"]) for name in names)
            line = "step %d: val/neg_elbo %.2f nats (distortion %.2f + rate %.2f), val/sse_kl %.2f"
            log.info(line, trainer.global_step, *values)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the progress bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the progress bar after an error."""
        self.on_train_end(trainer, pl_module)


def progress_of(trainer: Trainer) -> tuple[int, int | None]:
    """Return (done, total) in steps if `trainer.max_steps` is set, else in batches; an unknown total is None."""
    if trainer.max_steps >= 0:
        return trainer.global_step, trainer.max_steps
    batches = trainer.num_training_batches
    known = trainer.max_epochs is not None and trainer.max_epochs > 0 and not math.isinf(batches)
    return trainer.fit_loop.total_batch_idx + 1, int(batches * (trainer.max_epochs or 0)) if known else None

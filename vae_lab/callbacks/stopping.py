"""What ended training before its last batch, and a run folder that is gone."""

from pathlib import Path

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from vae_lab.errors import StorageError
from vae_lab.tasks.task import Task


class FolderWatch(Callback):
    """Ends a run whose folder was removed: files written later would make a new one, of which half is missing.

    Args:
        folder: the run folder, in which summary.json lies from the start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Look before each checkpoint."""
        self.look(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Look before the run is called completed."""
        self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Raise StorageError if the folder was removed."""
        if trainer.is_global_zero and not (self.folder / "summary.json").exists():
            raise StorageError(
                f"{self.folder.absolute()} was removed or emptied during the run; train again, in a folder that stays."
            )


class TimeWatch(Callback):
    """Ends training at the batch at which the time of Lightning's timer is up, not at the next validation."""

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Listen to batches, if there is a timer with a limit."""
        timer = expiring(trainer)
        if timer is not None:
            pl_module.listeners.append(lambda task: self.look(timer, task))

    def look(self, timer: Timer, task: Task) -> None:
        """Ask the task to stop if the time is up."""
        task.stopping = task.stopping or is_up(timer)


def expiring(trainer: Trainer) -> Timer | None:
    """Return the trainer's timer that has a limit, which trainer.max_time makes, or None."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # pyright: ignore[reportAttributeAccessIssue]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)


def is_up(timer: Timer) -> bool:
    """Return whether a timer's time is up."""
    left = timer.time_remaining()
    return left is not None and left <= 0


def out_of_time(trainer: Trainer, task: Task) -> bool:
    """Return whether a time limit ended training before its last batch."""
    timer = expiring(trainer)
    return task.batches_seen < task.max_steps and timer is not None and is_up(timer)


def stopped_by(trainer: Trainer, task: Task) -> str | None:
    """Return what ended training before its last batch; None if nothing did."""
    if task.batches_seen >= task.max_steps:
        return None
    if out_of_time(trainer, task):
        return "the time limit of trainer.max_time or of a Timer"
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"EarlyStopping: {callback.stopping_reason_message.removesuffix(' Signaling Trainer to stop.')}"
    return "a callback, by trainer.should_stop" if trainer.should_stop else "a limit of the trainer's settings"

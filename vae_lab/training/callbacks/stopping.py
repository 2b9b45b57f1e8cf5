"""The validation after the last batch, the reason that training ended, and a removed run folder."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from vae_lab.errors import StorageError

TIME = "trainer.max_time or a Timer"
"""What ended a run whose time was up."""


class FolderWatch(Callback):
    """Ends a run whose folder was removed: files written later would make a new one, of which half is missing.

    Args:
        folder: the run folder, in which summary.json lies from the start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before each checkpoint."""
        self.look(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before the run is called completed."""
        self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Raise StorageError if the folder was removed."""
        if trainer.is_global_zero and not (self.folder / "summary.json").exists():
            raise StorageError(
                f"{self.folder.absolute()} was removed or emptied during the run; train again, in a folder that stays."
            )


class FinalValidation(Callback):
    """Has a validation, and so a checkpoint, follow the last batch, whatever ends training.

    Lightning validates at its interval, and where `trainer.should_stop` was set, but not where a limit is reached
    between two validations. So this callback sets `should_stop` itself at a limit; it is to come after all that set it.

    Attributes:
        limit: the setting whose limit ended training; None if none did.
    """

    def __init__(self) -> None:
        self.limit: str | None = None
        self.validated_at: int | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Ask for a validation if this was the last batch."""
        self.limit = reached_limit(trainer)
        if self.limit is not None:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = 0
            trainer.fit_loop.epoch_loop.min_steps = None
        if trainer.should_stop and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which weights were validated."""
        if not trainer.sanity_checking:
            self.validated_at = trainer.global_step


class LateValidation(Callback):
    """Validates where a callback ended training after the last validation, as at the end of an epoch.

    It is to come before Lightning's callbacks that put averaged weights into the model at the end of training.

    Args:
        final: knows which weights were validated.
    """

    def __init__(self, final: FinalValidation) -> None:
        self.final = final

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate if the last weights were not."""
        if trainer.enable_validation and trainer.global_step and self.final.validated_at != trainer.global_step:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


def reached_limit(trainer: Trainer) -> str | None:
    """Return the setting that lets the batch in hand be the last one; None if there is none."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps}"
    epochs = trainer.max_epochs
    if epochs is not None and 0 < epochs <= trainer.current_epoch + 1 and trainer.is_last_batch:
        return f"trainer.max_epochs={epochs}"
    return None


def limit_at_start(trainer: Trainer) -> str | None:
    """Return the setting that leaves no batch to train on, as where a finished run goes on; None if there is none."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps}"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return f"trainer.max_epochs={trainer.max_epochs}"
    return None


def expiring(trainer: Trainer) -> Timer | None:
    """Return the trainer's timer that has a limit, which trainer.max_time makes, or None."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # pyright: ignore[reportAttributeAccessIssue]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)


def ended_by(trainer: Trainer, limit: str | None) -> str:
    """Return what ended training: a limit that was reached, a timer or another callback."""
    limit = limit or limit_at_start(trainer)
    if limit is not None:
        return limit
    timer = expiring(trainer)
    if timer is not None and (timer.time_remaining() or 0) <= 0:
        return TIME
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"EarlyStopping: {callback.stopping_reason_message.removesuffix(' Signaling Trainer to stop.')}"
    if 0 <= trainer.max_steps <= trainer.global_step:  # from the start, as the run that went on had got so far
        return f"trainer.max_steps={trainer.max_steps}"
    if trainer.should_stop:
        return "a callback, by trainer.should_stop"
    return "no training batches, by trainer.limit_train_batches"

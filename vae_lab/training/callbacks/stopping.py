"""The end of training: a last validation, the reason, and a check that the run folder still exists."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer

from vae_lab.errors import StorageError
from vae_lab.runs.folder import has_summary

TIME = "trainer.max_time or a Timer"
"""The reason if a time limit ended training."""


class FolderWatch(Callback):
    """Raises StorageError during a run if the run folder has been removed.

    Otherwise, files that are written later would create an incomplete folder.

    Args:
        folder: the run folder, which has a summary.json from the start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the folder exists before a validation, after which a checkpoint is written."""
        self.check(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the folder exists before the run gets the status completed."""
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Raise StorageError if the run folder was removed."""
        if trainer.is_global_zero and not has_summary(self.folder):
            raise StorageError(
                f"{self.folder.absolute()} was removed or emptied during the run; train again, and keep the folder."
            )


class FinalValidation(Callback):
    """Adds a validation, and thereby a checkpoint, after the last training batch.

    Lightning validates at its interval and when `trainer.should_stop` is set, but not when a limit is reached between
    two validations. So this callback sets `should_stop` at a limit. It must follow all callbacks that set it.

    Attributes:
        limit: the setting whose limit ended training, or None.
    """

    def __init__(self) -> None:
        self.limit: str | None = None
        self.validated_at: int | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Make Lightning validate after this batch if it was the last one."""
        self.limit = reached_limit(trainer)
        if self.limit is not None:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = 0
            trainer.fit_loop.epoch_loop.min_steps = None
        if trainer.should_stop and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the step at which the weights were validated."""
        if not trainer.sanity_checking:
            self.validated_at = trainer.global_step


class LateValidation(Callback):
    """Adds a validation at the end of training if a callback ended training after the last validation.

    It must precede Lightning's callbacks that load averaged weights into the model at the end of training.

    Args:
        final: the callback that stores the step of the validated weights.
    """

    def __init__(self, final: FinalValidation) -> None:
        self.final = final

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the last weights if they have not been validated."""
        if trainer.enable_validation and trainer.global_step and self.final.validated_at != trainer.global_step:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True


def reached_limit(trainer: Trainer) -> str | None:
    """Return the setting whose limit is reached with this batch, such as "trainer.max_steps=100", or None."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps}"
    epochs = trainer.max_epochs
    if epochs is not None and 0 < epochs <= trainer.current_epoch + 1 and trainer.is_last_batch:
        return f"trainer.max_epochs={epochs}"
    return None


def limit_at_start(trainer: Trainer) -> str | None:
    """Return the setting whose limit was reached before training, as when resuming a finished run, or None."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps}"
    if trainer.max_epochs is not None and 0 <= trainer.max_epochs <= trainer.current_epoch:
        return f"trainer.max_epochs={trainer.max_epochs}"
    return None


def ended_by(trainer: Trainer, limit: str | None) -> str:
    """Return what ended training, as text: a setting with a limit, a timer or another callback."""
    limit = limit or limit_at_start(trainer)
    if limit is not None:
        return limit
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    remaining = [callback.time_remaining() for callback in callbacks if isinstance(callback, Timer)]
    if any(seconds is not None and seconds <= 0 for seconds in remaining):
        return TIME
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return f"EarlyStopping: {callback.stopping_reason_message.removesuffix(' Signaling Trainer to stop.')}"
    if trainer.should_stop:
        return "a callback, by trainer.should_stop"
    return "no training batches, by trainer.limit_train_batches"

"""Checkpoints that are written atomically and read without trust."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vae_lab.errors import StorageError
from vae_lab.runs.tensor_file import require_storable
from vae_lab.system.atomic import whole

log = logging.getLogger(__name__)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; Lightning's own save stages in $TMPDIR, and a kill can cut the copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write the checkpoint to `path` at once.

        Raises:
            ValueError: if a callback keeps what could not be read back.
            StorageError: if the file cannot be written.
        """
        require_storable(checkpoint.get("callbacks", {}))
        try:
            with whole(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            raise StorageError(
                f"{Path(path).absolute()} could not be written; the one before it is intact ({error})."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the checkpoint, read as tensors and plain values only, whatever was asked for."""
        return torch.load(path, map_location="cpu", weights_only=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint with the best validation, and as `last` that of the last one.

    Lightning 2.6 writes `last` only where a validation was the best so far, and nothing where there is no validation. A
    class of its own also keeps the state of this callback apart from that of a user's `ModelCheckpoint`.
    """

    came_from: Path | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write `last` at the end of training where there is no validation to do so."""
        super().on_train_batch_end(trainer, pl_module, *args)
        if trainer.should_stop and not trainer.enable_validation:
            self.write_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both."""
        super().on_validation_end(trainer, pl_module)
        self.write_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last` where nothing has been written, but not for `trainer.fast_dev_run`, as Lightning does."""
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            super().on_train_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember beside which checkpoint the best one so far lies."""
        self.came_from = Path(str(trainer.ckpt_path)).parent if trainer.ckpt_path else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the best checkpoint so far, which is copied where the run goes on in another folder.

        Lightning forgets it there, so that an earlier better one would be lost.
        """
        names = [*state_dict["best_k_models"], state_dict["kth_best_model_path"], state_dict["best_model_path"]]
        moved = {name: str(Path(str(self.dirpath)) / Path(name).name) for name in names if name}
        for name, target in moved.items():
            source = (self.came_from or Path(name).parent) / Path(name).name
            if not Path(target).exists() and source.exists():
                with whole(Path(target)) as temporary:
                    shutil.copyfile(source, temporary)
        there = {name: target for name, target in moved.items() if Path(target).exists()}
        if moved and not there:
            log.warning("the best checkpoint so far is gone; the best one from here on is kept")
            return
        state = dict(state_dict)
        state["best_k_models"] = {there[name]: score for name, score in state["best_k_models"].items() if name in there}
        state |= {key: there.get(state[key], "") for key in ("kth_best_model_path", "best_model_path")}
        super().load_state_dict(state | {"dirpath": self.dirpath, "last_model_path": ""})

    def write_last(self, trainer: Trainer) -> None:
        """Write `last`, unless it was written at this step."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class StoredConfig(Callback):
    """Puts the resolved config, JSON types alone, into every checkpoint, so that a model loads from that one file.

    The metrics of the latest validation are stored too if they are of these weights. Checkpoints of a user's callback
    may come between two validations.

    Args:
        config: the resolved config.
        data: the fingerprint of the data, so that a run is resumed with the same.
    """

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.data = data
        self.validated_at: int | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which weights were validated."""
        self.validated_at = None if trainer.sanity_checking else trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the config as the checkpoint's hyper-parameters."""
        checkpoint["hyper_parameters"] = self.config
        checkpoint["data"] = self.data
        seen = trainer.callback_metrics if self.validated_at == trainer.global_step else {}
        checkpoint["metrics"] = {name: float(value) for name, value in seen.items() if name.startswith("val/")}

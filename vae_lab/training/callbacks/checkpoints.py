"""Checkpoints that are written atomically and loaded without executing code."""

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
    """Lightning's checkpoint reader and writer with atomic writes: a temporary file is written, then renamed.

    Lightning copies checkpoints from $TMPDIR, and a killed process can leave a truncated copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write the checkpoint to `path` atomically.

        Raises:
            ValueError: if a callback's state has objects that cannot be loaded.
            StorageError: if the file cannot be written.
        """
        require_storable(checkpoint.get("callbacks", {}))
        try:
            with whole(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            raise StorageError(
                f"{Path(path).absolute()} could not be written; the previous file is intact ({error})."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the content of a checkpoint, always loaded to the CPU and with `weights_only=True`."""
        return torch.load(path, map_location="cpu", weights_only=True)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoints of the best and of the last validation, as best.ckpt and last.ckpt.

    Lightning 2.6 writes `last` only when a validation is the best so far, and never without validation. A separate
    class also separates this callback's state from that of a user's `ModelCheckpoint`.

    As long as a task says that its model is incomplete (`is_preliminary`), best.ckpt is the last checkpoint; the first
    complete model replaces it, whatever its score.
    """

    came_from: Path | None = None
    best_is_preliminary = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Write last.ckpt at the end of training if validation is disabled."""
        super().on_train_batch_end(trainer, pl_module, *args)
        if trainer.should_stop and not trainer.enable_validation:
            self.write_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write best.ckpt if this validation is the best so far, and write last.ckpt."""
        if not trainer.sanity_checking:
            is_preliminary = bool(getattr(pl_module, "is_preliminary", False))
            if is_preliminary or self.best_is_preliminary:
                self.best_k_models = {}
            self.best_is_preliminary = is_preliminary
        super().on_validation_end(trainer, pl_module)
        self.write_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write last.ckpt if there is no checkpoint yet, but never with `trainer.fast_dev_run`, unlike Lightning."""
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            super().on_train_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the folder of the loaded checkpoint, which also contains the best checkpoint so far."""
        self.came_from = Path(str(trainer.ckpt_path)).parent if trainer.ckpt_path else None

    def state_dict(self) -> dict[str, Any]:
        """Return the paths and scores of the checkpoints, for a checkpoint."""
        return {**super().state_dict(), "best_is_preliminary": self.best_is_preliminary}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the path and score of the best checkpoint; copy its file if the run resumes in another folder.

        Lightning discards the best checkpoint in another folder, so a later and worse one would replace it.
        """
        names = [*state_dict["best_k_models"], state_dict["kth_best_model_path"], state_dict["best_model_path"]]
        moved = {name: str(Path(str(self.dirpath)) / Path(name).name) for name in names if name}
        for name, target in moved.items():
            source = (self.came_from or Path(name).parent) / Path(name).name
            if not Path(target).exists() and source.exists():
                with whole(Path(target)) as temporary:
                    shutil.copyfile(source, temporary)
        kept = {name: target for name, target in moved.items() if Path(target).exists()}
        self.best_is_preliminary = state_dict["best_is_preliminary"]
        if moved and not kept:
            log.warning("the best checkpoint so far is missing; best.ckpt will be the best from now on")
            return
        state = dict(state_dict)
        state["best_k_models"] = {kept[name]: score for name, score in state["best_k_models"].items() if name in kept}
        state |= {key: kept.get(state[key], "") for key in ("kth_best_model_path", "best_model_path")}
        super().load_state_dict(state | {"dirpath": self.dirpath, "last_model_path": ""})

    def write_last(self, trainer: Trainer) -> None:
        """Write last.ckpt, unless it was already written at this step."""
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class StoredConfig(Callback):
    """Stores the resolved config in every checkpoint, so that a model can be loaded from the checkpoint alone.

    The checkpoint also gets the metrics of the last validation if that validated the same weights. Checkpoints of a
    user's callback may come between two validations.

    Args:
        config: the resolved config, of JSON types only.
        data: the fingerprint of the data, which a resumed run must match.
    """

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.data = data
        self.validated_at: int | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the step at which the weights were validated."""
        self.validated_at = None if trainer.sanity_checking else trainer.global_step

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the config, the fingerprint of the images and the validation metrics in the checkpoint."""
        checkpoint["hyper_parameters"] = self.config
        checkpoint["data"] = self.data
        seen = trainer.callback_metrics if self.validated_at == trainer.global_step else {}
        checkpoint["metrics"] = {name: float(value) for name, value in seen.items() if name.startswith("val/")}

"""Checkpoints that a kill at any moment leaves readable, and that need no trust to read."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vae_lab.errors import StorageError
from vae_lab.files import whole
from vae_lab.tensor_file import require_storable


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


class StoredConfig(Callback):
    """Puts the resolved config, JSON types alone, into every checkpoint, so that a model loads from that one file.

    The metrics of the latest validation are stored too, which are of these weights: checkpoints come with validations.

    Args:
        config: the resolved config.
        data: the fingerprint of the data, so that a run is resumed with the same.
    """

    def __init__(self, config: dict[str, Any], data: dict[str, Any]) -> None:
        self.config = config
        self.data = data

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the config as the checkpoint's hyper-parameters."""
        checkpoint["hyper_parameters"] = self.config
        checkpoint["data"] = self.data
        seen = trainer.callback_metrics
        checkpoint["metrics"] = {name: float(value) for name, value in seen.items() if name.startswith("val/")}

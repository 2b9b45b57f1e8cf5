"""Stochastic weight averaging: the averaged weights are validated and stored at the end of training."""

from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging

from vae_lab.data.datamodule import ImageData
from vae_lab.training.callbacks.checkpoints import WholeCheckpointIO
from vae_lab.training.callbacks.latents import Latents
from vae_lab.training.tasks.task import UNAVERAGED, Task


def finish_averaging(trainer: Trainer, task: Task, data: ImageData) -> bool:
    """Return whether Lightning averaged weights (SWA); if so, load, validate and store them in last.ckpt.

    Lightning 2.6 copies averaged weights into the model only after the last validation and checkpoint, and not at all
    if training ends before the last epoch. The checkpoint also keeps the weights in training, for resuming.
    """
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    swa = next((one for one in callbacks if isinstance(one, StochasticWeightAveraging)), None)
    if swa is None or not swa.n_averaged:
        return False
    assert swa._average_model is not None  # noqa: SLF001
    swa.transfer_weights(swa._average_model, task)  # noqa: SLF001
    trainer.validate(task, datamodule=data, verbose=False)
    for one in callbacks:
        if isinstance(one, Latents):
            one.on_train_end(trainer, task)
    keeper = trainer.checkpoint_callback
    last = keeper.last_model_path if isinstance(keeper, ModelCheckpoint) else ""
    if last and trainer.is_global_zero:
        store_average(Path(last), trainer, task)
    trainer.strategy.barrier()
    return True


def store_average(path: Path, trainer: Trainer, task: Task) -> None:
    """Replace a checkpoint's weights and metrics by those of the averaged task; keep the unaveraged weights too."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    stored[UNAVERAGED] = stored["state_dict"]
    stored["state_dict"] = task.state_dict()
    seen = trainer.callback_metrics
    stored["metrics"] = {name: float(value) for name, value in seen.items() if name.startswith("val/")}
    WholeCheckpointIO().save_checkpoint(stored, path)

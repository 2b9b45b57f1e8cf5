"""Checks for Trainer arguments and callbacks that vae_lab does not accept; docs/lightning.md lists them."""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn

from vae_lab.training.precision_plugin import is_cpu

log = logging.getLogger(__name__)

OWNED = {
    "logger": "choose them with the group logger=",
    "callbacks": "add them to the group callbacks, as in +callbacks.mine._target_=…",
    "plugins": "vae_lab uses its own plugins for checkpoints and distributed training",
    "barebones": "it disables the checkpoints and logs of a run folder; choose logger=none instead",
    "model_registry": "upload a checkpoint with its own tool after the run",
}
"""Arguments of Lightning's trainer that vae_lab sets, and what to use instead."""
SEVERAL = {
    "accumulate_grad_batches": (1, "choose a larger data.batch_size"),
    "gradient_clip_val": (None, "choose task.gradient_clip_val, which clips the gradients of each optimizer"),
    "gradient_clip_algorithm": (None, "choose task.gradient_clip_val, which clips by norm"),
}
"""Arguments for tasks with one optimizer: the neutral value, and the remedy for tasks with several."""
OF_ONE: dict[type[Callback], str] = {
    StochasticWeightAveraging: "use its EMA of the weights, task.ema_decay",
    GradientAccumulationScheduler: "choose a larger data.batch_size",
    LearningRateFinder: "choose optimizer.lr and task.adversary_optimizer.lr",
}
"""Callbacks for tasks with one optimizer, and the remedy for tasks with several."""
SPAWNED = ("spawn", "fork", "notebook")


def check_owned(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the trainer's settings without those in `OWNED`, which vae_lab sets itself.

    Raises:
        ValueError: if one of `OWNED` is set.
    """
    for name, remedy in OWNED.items():
        if settings.get(name) not in (None, *([False] if name == "barebones" else [])):
            raise ValueError(f"trainer.{name}: {remedy}.")
    return {name: value for name, value in settings.items() if name not in OWNED}


def check_settings(settings: dict[str, Any], strategy: str) -> None:
    """Raise ValueError if a trainer setting has no effect or spawns processes; warn of `limit_predict_batches`."""
    if settings.get("gradient_clip_algorithm") is not None and settings.get("gradient_clip_val") is None:
        raise ValueError(
            f"trainer.gradient_clip_algorithm={settings['gradient_clip_algorithm']} has no effect, because"
            " trainer.gradient_clip_val is null; set it too."
        )
    if any(word in str(strategy) for word in SPAWNED):
        raise ValueError(
            f"trainer.strategy={strategy} trains in spawned processes, which return no metrics; choose ddp."
        )
    if settings.get("limit_predict_batches") is not None:
        log.warning("trainer.limit_predict_batches affects only Trainer.predict, which training does not call")


def check_several(callbacks: Sequence[Callback], settings: dict[str, Any], precision: str | int) -> None:
    """Raise ValueError, for a task with several optimizers, if a setting or callback supports only one optimizer."""
    for name, (neutral, remedy) in SEVERAL.items():
        if settings.get(name) not in (neutral, None):
            raise ValueError(
                f"trainer.{name}={settings[name]} is for tasks with one optimizer, and this one has several; {remedy}."
            )
    if str(precision) in ("16", "16-mixed"):
        raise ValueError(
            f"trainer.precision={precision} scales the loss of one optimizer, and this task has several; choose"
            " bf16-mixed or 32-true."
        )
    for one in callbacks:
        for kind, remedy in OF_ONE.items():
            if isinstance(one, kind):
                raise ValueError(
                    f"{kind.__name__} is for tasks with one optimizer, and this one has several; {remedy}."
                )
        if isinstance(one, ModelCheckpoint) and one._train_time_interval is not None:  # noqa: SLF001
            raise ValueError(
                "ModelCheckpoint: train_time_interval is for tasks with one optimizer, and this one has several; choose"
                " every_n_train_steps."
            )
        if isinstance(one, WeightAveraging) and not isinstance(one, EMAWeightAveraging) and one._use_buffers:  # noqa: SLF001
            raise ValueError(
                "WeightAveraging: use_buffers=true would average the boolean buffers of task.guard; choose"
                " use_buffers=false."
            )


def check_precision(precision: str | int) -> None:
    """Raise ValueError if a precision stores weights in 16 bits; densities and their gradients need float32."""
    if str(precision) in ("16-true", "bf16-true"):
        raise ValueError(
            f"trainer.precision={precision} stores weights in 16 bits, but densities need float32; choose bf16-mixed."
        )


def check_callbacks(callbacks: Sequence[Callback], accelerator: str, max_epochs: int | None) -> None:
    """Raise ValueError if one of Lightning's callbacks cannot work with vae_lab or with these settings."""
    for one in callbacks:
        if isinstance(one, BatchSizeFinder):
            raise ValueError(
                "BatchSizeFinder would change data.batch_size, which is part of the stored config; choose"
                " data.batch_size by the memory that python -m vae_lab.profile reports."
            )
        if isinstance(one, DeviceStatsMonitor) and is_cpu(accelerator) and importlib.util.find_spec("psutil") is None:
            raise ValueError(
                "DeviceStatsMonitor needs the package psutil, which is not installed: pip install 'vae_lab[monitor]'."
            )
        if isinstance(one, BackboneFinetuning):
            raise ValueError(
                "BackboneFinetuning unfreezes a backbone, which a VAE does not have; write a subclass of BaseFinetuning"
                " for its encoder or decoder."
            )
        if isinstance(one, OnExceptionCheckpoint) and Path(one.ckpt_path).exists():
            raise ValueError(
                f"OnExceptionCheckpoint: Lightning would resume from {one.ckpt_path} unasked; remove it, or choose"
                " another dirpath."
            )
        if isinstance(one, StochasticWeightAveraging) and (max_epochs or -1) < 0:
            start = one._swa_epoch_start  # noqa: SLF001
            if isinstance(start, float):
                raise ValueError(
                    f"StochasticWeightAveraging: swa_epoch_start={start} is a share of trainer.max_epochs, which is"
                    " null; choose trainer.max_epochs=…, or a whole epoch."
                )


def check_pruning(callbacks: Sequence[Callback], task: nn.Module) -> None:
    """Raise ValueError if ModelPruning selects weights that torch cannot prune."""
    for one in callbacks:
        if isinstance(one, ModelPruning):
            everything = [(part, name) for part in task.modules() for name in one.PARAMETER_NAMES]
            chosen = one._parameters_to_prune or everything  # noqa: SLF001
            weights = [getattr(part, name, None) for part, name in chosen]
            if any(isinstance(weight, nn.Parameter) and not weight.is_contiguous() for weight in weights):
                raise ValueError(
                    "ModelPruning: torch cannot prune weights of convolutions in channels-last memory format; choose"
                    " model=mlp, or name other weights in parameters_to_prune."
                )


def check_resumed(callbacks: Sequence[Callback]) -> None:
    """Raise ValueError if a callback cannot be used in a resumed run.

    Lightning 2.6.6 restores SpikeDetection from a missing attribute.
    """
    for kind, reason in (
        (LearningRateFinder, "the learning rate that it found is in the checkpoint"),
        (SpikeDetection, "Lightning 2.6 cannot restore its state"),
    ):
        if any(isinstance(one, kind) for one in callbacks):
            raise ValueError(f"resume=: {kind.__name__} works in new runs only; leave it out: {reason}.")

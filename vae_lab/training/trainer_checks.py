"""Trainer arguments and callbacks that are refused; docs/lightning.md lists them."""

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
    "plugins": "vae_lab writes checkpoints and finds other processes by plugins of its own",
    "barebones": "it leaves out checkpoints and logs, which a run folder is made of; choose logger=none instead",
    "model_registry": "upload a checkpoint with its own tool after the run",
}
"""Arguments of Lightning's trainer that belong elsewhere, and where."""
SEVERAL = {
    "accumulate_grad_batches": (1, "choose a larger data.batch_size"),
    "gradient_clip_val": (None, "choose task.gradient_clip_val, which clips the gradients of each"),
    "gradient_clip_algorithm": (None, "choose task.gradient_clip_val, which clips by the norm"),
}
"""Arguments for tasks with one optimizer: the value that asks for nothing, and what to choose for several."""
OF_ONE: dict[type[Callback], str] = {
    StochasticWeightAveraging: "it keeps an average of its weights already, task.ema_decay",
    GradientAccumulationScheduler: "choose a larger data.batch_size",
    LearningRateFinder: "choose optimizer.lr and task.adversary_optimizer.lr",
}
"""Callbacks for tasks with one optimizer, and what to do with several."""
SPAWNED = ("spawn", "fork", "notebook")


def check_owned(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those that belong elsewhere.

    Raises:
        ValueError: if one of those is set.
    """
    for name, remedy in OWNED.items():
        if settings.get(name) not in (None, *([False] if name == "barebones" else [])):
            raise ValueError(f"trainer.{name}: {remedy}.")
    return {name: value for name, value in settings.items() if name not in OWNED}


def check_settings(settings: dict[str, Any], strategy: str) -> None:
    """Raise ValueError if a setting could have no effect here, and warn of one that has none in a command."""
    if settings.get("gradient_clip_algorithm") is not None and settings.get("gradient_clip_val") is None:
        raise ValueError(
            f"trainer.gradient_clip_algorithm={settings['gradient_clip_algorithm']} says how gradients are clipped, and"
            " trainer.gradient_clip_val is null, so that they are not; name it too."
        )
    if any(word in str(strategy) for word in SPAWNED):
        raise ValueError(
            f"trainer.strategy={strategy} trains in processes from which this one gets no numbers back; choose ddp."
        )
    if settings.get("limit_predict_batches") is not None:
        log.warning("trainer.limit_predict_batches is for Trainer.predict in Python: training predicts nothing")


def check_several(callbacks: Sequence[Callback], settings: dict[str, Any], precision: str | int) -> None:
    """Raise ValueError if a task with several optimizers is asked for what Lightning offers one optimizer only."""
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
                "WeightAveraging: use_buffers=true would average the flags of task.guard, which have no mean; choose"
                " use_buffers=false."
            )


def check_precision(precision: str | int) -> None:
    """Raise ValueError if weights would have 16 bits: densities are computed in float32, and passed on to networks."""
    if str(precision) in ("16-true", "bf16-true"):
        raise ValueError(
            f"trainer.precision={precision} stores weights in 16 bits, and densities are computed in 32; choose"
            " bf16-mixed."
        )


def check_callbacks(callbacks: Sequence[Callback], accelerator: str, max_epochs: int | None) -> None:
    """Raise ValueError if one of Lightning's callbacks could not do here what it is for."""
    for one in callbacks:
        if isinstance(one, BatchSizeFinder):
            raise ValueError(
                "BatchSizeFinder changes data.batch_size, which is part of a run's stored config, and so of what can be"
                " repeated; python -m vae_lab.profile tells what memory a batch takes; choose data.batch_size."
            )
        if isinstance(one, DeviceStatsMonitor) and is_cpu(accelerator) and importlib.util.find_spec("psutil") is None:
            raise ValueError(
                "DeviceStatsMonitor needs the package psutil, which is not installed: pip install 'vae_lab[monitor]'."
            )
        if isinstance(one, BackboneFinetuning):
            raise ValueError(
                "BackboneFinetuning unfreezes a backbone, and a VAE has an encoder and a decoder; make a subclass of"
                " BaseFinetuning."
            )
        if isinstance(one, OnExceptionCheckpoint) and Path(one.ckpt_path).exists():
            raise ValueError(
                f"OnExceptionCheckpoint: Lightning would go on from {one.ckpt_path} unasked; remove it, or choose"
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
    """Raise ValueError if weights are to be pruned that torch's pruning cannot take."""
    for one in callbacks:
        if isinstance(one, ModelPruning):
            everything = [(part, name) for part in task.modules() for name in one.PARAMETER_NAMES]
            chosen = one._parameters_to_prune or everything  # noqa: SLF001
            weights = [getattr(part, name, None) for part, name in chosen]
            if any(isinstance(weight, nn.Parameter) and not weight.is_contiguous() for weight in weights):
                raise ValueError(
                    "ModelPruning: torch cannot prune the weights of convolutions here, whose channels come last in"
                    " memory; choose model=mlp, or name other weights in parameters_to_prune."
                )


def check_resumed(callbacks: Sequence[Callback]) -> None:
    """Raise ValueError if a callback cannot go on with a run.

    Lightning 2.6.6 restores SpikeDetection from an attribute that it does not have.
    """
    for kind, remedy in (
        (LearningRateFinder, "the rate that it found comes with the checkpoint"),
        (SpikeDetection, "Lightning 2.6 cannot restore its state"),
    ):
        if any(isinstance(one, kind) for one in callbacks):
            raise ValueError(f"resume=: {kind.__name__} is for runs that begin; leave it out: {remedy}.")

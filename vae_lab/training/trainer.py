"""The builder of `lightning.Trainer`, with Lightning's argument names."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.strategies import DDPStrategy, Strategy

from vae_lab.system.processes import by_torchrun, ranks
from vae_lab.training.callbacks.checkpoints import BestCheckpoint, WholeCheckpointIO
from vae_lab.training.callbacks.progress import ProgressLine
from vae_lab.training.distributed.replicas import TIMEOUT, Replicas
from vae_lab.training.precision_plugin import bfloat16_mixed, named_precision
from vae_lab.training.trainer_checks import check_callbacks, check_owned, check_precision, check_settings, check_several

log = logging.getLogger(__name__)


def build(
    *,
    callbacks: Sequence[Callback] | None,
    automatic: bool = True,
    precision: str | int,
    accelerator: str,
    devices: Any,  # noqa: ANN401
    strategy: str,
    num_nodes: int,
    default_root_dir: str,
    max_epochs: int | None,
    enable_checkpointing: bool,
    enable_progress_bar: bool,
    enable_model_summary: bool,
    **settings: Any,
) -> Trainer:
    """Return a `lightning.Trainer` without loggers; the caller sets them after all checks.

    Args:
        callbacks: callbacks of the config and of vae_lab.
        automatic: whether the task uses Lightning's automatic optimization; a task with manual optimization averages
            its gradients over processes itself.
        precision: a name of Lightning, or "auto": bf16-mixed if the processor supports it, else 32-true.
        accelerator: a name of Lightning.
        devices: 1, or the number of processes that torchrun, Slurm or `vae_lab.training.distributed.launch` started on
            this machine, each with one device.
        strategy: "auto" or "ddp", which are the same for several devices; another one is passed to Lightning.
        num_nodes: 1, or the number of machines of the started processes.
        default_root_dir: folder for files of Lightning's parts without a folder of their own.
        max_epochs: largest number of epochs; None is unlimited, unlike in Lightning.
        enable_checkpointing: whether to write checkpoints.
        enable_progress_bar: whether to show progress.
        enable_model_summary: whether to print a table of the modules.
        settings: any other argument of `lightning.Trainer`.

    Raises:
        ValueError: if a setting belongs elsewhere, is unknown, or cannot be used here.
    """
    settings = check_owned(settings)
    if not automatic:
        check_several(callbacks or (), settings, precision)
    check_settings(settings, strategy)
    check_precision(precision)
    check_callbacks(callbacks or (), accelerator, max_epochs)
    check_devices(devices, strategy)
    check_root(Path(default_root_dir))
    check_nodes(num_nodes)
    skip_nvml()
    _, size, local_size = ranks()
    chosen = named_precision(precision, accelerator)
    plugin = bfloat16_mixed(chosen, accelerator)
    return construct(
        {"accelerator": accelerator, "precision": precision, "strategy": strategy},
        accelerator=accelerator,
        precision=None if plugin else chosen,  # pyright: ignore[reportArgumentType]
        devices=local_size,
        num_nodes=size // local_size,
        strategy=chosen_strategy(strategy, size, automatic=automatic),
        callbacks=drop_disabled(callbacks or (), bar=enable_progress_bar, checkpoints=enable_checkpointing),
        logger=False,
        plugins=[WholeCheckpointIO(), *plugin, *environment()],
        default_root_dir=default_root_dir,
        max_epochs=-1 if max_epochs is None else max_epochs,
        enable_checkpointing=enable_checkpointing,
        enable_progress_bar=enable_progress_bar,
        enable_model_summary=enable_model_summary or any(isinstance(one, ModelSummary) for one in callbacks or ()),
        **validation(settings),
    )


def check_nodes(num_nodes: int) -> None:
    """Raise ValueError unless `num_nodes` is 1 or the number of machines on which processes were started."""
    _, size, local_size = ranks()
    if num_nodes not in (1, size // local_size):
        raise ValueError(
            f"trainer.num_nodes={num_nodes}, but the processes run on {size // local_size} machines; leave it out, or"
            " start processes with torchrun or srun."
        )


def skip_nvml() -> None:
    """Unset the environment variable PYTORCH_NVML_BASED_CUDA_CHECK if there is no GPU.

    Lightning sets it on import, and each optimizer step would load NVIDIA's library.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def construct(asked: dict[str, Any], **arguments: Any) -> Trainer:
    """Return a `lightning.Trainer`; if Lightning rejects an argument, raise ValueError with the settings in `asked`."""
    try:
        return Trainer(**arguments)
    except TypeError as error:
        raise ValueError(f"trainer: {error}; its settings are those of lightning.Trainer.") from error
    except RuntimeError as error:  # two callbacks with the same state key
        raise ValueError(f"callbacks: {error}") from error
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:  # for example missing hardware
        named = ", ".join(f"trainer.{name}={value}" for name, value in asked.items() if value != "auto")
        raise ValueError(f"{named or 'trainer'}: {error}") from error


def validation(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings; if `val_check_interval` is a fraction, `check_val_every_n_epoch` is 1 in place of None.

    Lightning accepts a fraction of an epoch as interval only if `check_val_every_n_epoch` is a number, and counts an
    integer interval over the whole run only if it is None.
    """
    interval, epochs = settings["val_check_interval"], settings["check_val_every_n_epoch"]
    share = isinstance(interval, float)
    return settings | {"check_val_every_n_epoch": 1 if share and epochs is None else epochs}


def drop_disabled(callbacks: Sequence[Callback], *, bar: bool, checkpoints: bool) -> list[Callback]:
    """Return the callbacks except ProgressLine, if disabled or replaced, and except BestCheckpoint, if disabled."""
    others = any(isinstance(one, ProgressBar) and not isinstance(one, ProgressLine) for one in callbacks)
    idle = (() if bar and not others else (ProgressLine,)) + (() if checkpoints else (BestCheckpoint,))
    if not checkpoints:
        log.warning("trainer.enable_checkpointing=false: other commands and resume= will find no checkpoint")
    return [one for one in callbacks if not isinstance(one, idle)]


def chosen_strategy(strategy: str, size: int, *, automatic: bool) -> str | Strategy:
    """Return the strategy for Lightning's trainer, by the setting and the number of processes."""
    if strategy not in ("auto", "ddp"):
        log.warning("trainer.strategy=%s is passed to Lightning; vae_lab does not test it", strategy)
        return strategy
    if size == 1:
        return "auto"
    return DDPStrategy(timeout=TIMEOUT) if automatic else Replicas()


def check_devices(devices: Any, strategy: str) -> None:  # noqa: ANN401
    """Raise ValueError unless `devices` is 1 or the number of processes started on this machine."""
    _, size, local_size = ranks()
    if not by_torchrun() and size > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(f"srun --ntasks={size}: Lightning needs --ntasks-per-node instead.")
    if str(devices) in ("1", "auto", str(local_size)) or strategy not in ("auto", "ddp"):
        return
    if size > 1:
        raise ValueError(
            f"trainer.devices={devices}, but {local_size} processes were started on this machine; leave it out."
        )
    raise ValueError(
        f"trainer.devices={devices} must be a whole number of devices; the command starts one process for each."
    )


def environment() -> list[ClusterEnvironment]:
    """Return a list with the cluster environment for Lightning; an empty list under torchrun, which it detects.

    By default, Lightning requeues a Slurm job at SIGUSR1: it writes a checkpoint inside the signal handler while
    training continues. Here, SIGUSR1 ends a run as SIGTERM does. A run of one process does not use Slurm.
    """
    if ranks().size == 1:
        single = LightningEnvironment()
        single.set_global_rank(0)  # Lightning read RANK on import, and logs nothing if it is above 0
        return [single]
    return [] if by_torchrun() else [SLURMEnvironment(auto_requeue=False)]


def check_root(folder: Path) -> None:
    """Raise ValueError if the folder holds a Slurm checkpoint from which Lightning would resume unasked."""
    found = sorted(folder.glob("*hpc_ckpt_*"))
    if found:
        raise ValueError(
            f"trainer.default_root_dir={folder} holds {found[0].name}, from which Lightning would resume unasked;"
            " remove it, or choose another folder."
        )

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
    """Return a trainer without loggers, which are set once all else is known to be right.

    Args:
        callbacks: of the config and of vae_lab.
        automatic: whether the task uses Lightning's automatic optimization; one that does not averages its gradients
            over processes itself.
        precision: Lightning's names, or "auto": bf16-mixed where the processor multiplies in bfloat16, else 32-true.
        accelerator: Lightning's names.
        devices: 1; several are for `vae_lab.training.distributed.launch`, which starts a process for each, as torchrun
            and Slurm do: in them it is those that were started.
        strategy: "auto" or "ddp", which is what several devices mean; any other is passed on.
        num_nodes: of the processes that were started.
        default_root_dir: where Lightning's parts write that were told no other place.
        max_epochs: limit; None is no limit, also where Lightning means 1,000.
        enable_checkpointing: whether checkpoints are kept.
        enable_progress_bar: whether there is one.
        enable_model_summary: whether Lightning prints a table of the modules.
        settings: any other argument of `lightning.Trainer`.

    Raises:
        ValueError: if a setting belongs elsewhere, or is not one of Lightning's.
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
        callbacks=without_idle(callbacks or (), bar=enable_progress_bar, checkpoints=enable_checkpointing),
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
    """Raise ValueError unless this is the number of machines whose processes were started."""
    _, size, local_size = ranks()
    if num_nodes not in (1, size // local_size):
        raise ValueError(f"trainer.num_nodes={num_nodes}: {size // local_size} take part, as torchrun or srun says.")


def skip_nvml() -> None:
    """Unset what Lightning sets on import: each optimizer step would load NVIDIA's library to look for a GPU."""
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def construct(asked: dict[str, Any], **arguments: Any) -> Trainer:
    """Return Lightning's trainer; what it refuses is said of the settings, those of `asked` by name."""
    try:
        return Trainer(**arguments)
    except TypeError as error:
        raise ValueError(f"trainer: {error}; its settings are those of lightning.Trainer.") from error
    except RuntimeError as error:  # two callbacks whose states a checkpoint could not tell apart
        raise ValueError(f"callbacks: {error}") from error
    except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:  # as of hardware that is not here
        named = ", ".join(f"trainer.{name}={value}" for name, value in asked.items() if value != "auto")
        raise ValueError(f"{named or 'trainer'}: {error}") from error


def validation(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with `check_val_every_n_epoch` as the interval of validation needs it.

    Lightning counts a whole `val_check_interval` over the run only where the other one is None, and takes a share of an
    epoch only where it is a number.
    """
    interval, epochs = settings["val_check_interval"], settings["check_val_every_n_epoch"]
    share = isinstance(interval, float)
    return settings | {"check_val_every_n_epoch": 1 if share and epochs is None else epochs}


def without_idle(callbacks: Sequence[Callback], *, bar: bool, checkpoints: bool) -> list[Callback]:
    """Return the callbacks without ours that another one or a setting of Lightning's leaves no work for.

    Args:
        callbacks: all.
        bar: whether a progress bar is wanted; another one takes the place of ours.
        checkpoints: whether any are wanted.
    """
    others = any(isinstance(one, ProgressBar) and not isinstance(one, ProgressLine) for one in callbacks)
    idle = (() if bar and not others else (ProgressLine,)) + (() if checkpoints else (BestCheckpoint,))
    if not checkpoints:
        log.warning("trainer.enable_checkpointing=false: no checkpoint is kept, which other commands and resume= need")
    return [one for one in callbacks if not isinstance(one, idle)]


def chosen_strategy(strategy: str, size: int, *, automatic: bool) -> str | Strategy:
    """Return Lightning's strategy for the processes that take part."""
    if strategy not in ("auto", "ddp"):
        log.warning("trainer.strategy=%s is passed on to Lightning; no test of vae_lab has used it", strategy)
        return strategy
    if size == 1:
        return "auto"
    return DDPStrategy(timeout=TIMEOUT) if automatic else Replicas()


def check_devices(devices: Any, strategy: str) -> None:  # noqa: ANN401
    """Raise ValueError unless these are the devices of this process, or of those that were started with it."""
    _, size, local_size = ranks()
    if not by_torchrun() and size > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(f"srun --ntasks={size}: Lightning wants to be told --ntasks-per-node instead.")
    if str(devices) in ("1", "auto", str(local_size)) or strategy not in ("auto", "ddp"):
        return
    if size > 1:
        raise ValueError(
            f"trainer.devices={devices}, and {local_size} processes were started on this machine; leave it out."
        )
    raise ValueError(
        f"trainer.devices={devices}: it must be a whole number of devices, for each of which the command starts one"
        " process."
    )


def environment() -> list[ClusterEnvironment]:
    """Return what tells Lightning of the other processes, where it would find Slurm by itself.

    Lightning's own way with Slurm requeues the job at SIGUSR1, after a checkpoint from within the signal's handler,
    while training goes on; here that signal ends a run as SIGTERM does. One process needs no Slurm.
    """
    if ranks().size == 1:
        alone = LightningEnvironment()
        alone.set_global_rank(0)  # Lightning took RANK for it on import, and would log nothing if that is 1
        return [alone]
    return [] if by_torchrun() else [SLURMEnvironment(auto_requeue=False)]


def check_root(folder: Path) -> None:
    """Raise ValueError if Lightning, under Slurm, would go on from a checkpoint that nobody asked for."""
    found = sorted(folder.glob("*hpc_ckpt_*"))
    if found:
        raise ValueError(
            f"trainer.default_root_dir={folder} holds {found[0].name}, from which Lightning would go on unasked; remove"
            " it, or choose another folder."
        )

"""The Lightning trainer as vae_lab uses it: one endless epoch, ended by the task after a number of batches."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from vae_lab.callbacks.checkpoints import WholeCheckpointIO
from vae_lab.precision import PRECISIONS, fastest_precision
from vae_lab.ranks import by_torchrun, ranks
from vae_lab.replicas import Replicas


def build(
    *,
    max_steps: int,  # noqa: ARG001
    val_every: int,  # noqa: ARG001
    precision: str | int,
    devices: int | str,
    strategy: str,
    default_root_dir: str,
    callbacks: list[Callback],
    **settings: Any,
) -> Trainer:
    """Return a trainer that leaves counting to the task; its loggers are set once all else is known to be right.

    Args:
        max_steps: batches to train on, for the task.
        val_every: batches between two validations, for the task; there is always one at the end.
        precision: Lightning's names, or "auto": bf16-mixed where the processor multiplies in bfloat16, else 32-true.
        devices: 1; several are for `vae_lab.launch`, which starts a process for each, as torchrun and Slurm do: in them
            it is those that were started.
        strategy: "auto" or "ddp", which is what several devices mean.
        default_root_dir: where Lightning's parts write that were told no other place.
        callbacks: whatever watches.
        settings: any other argument of `lightning.Trainer`.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"trainer.precision must be one of {', '.join(PRECISIONS)}, not {precision}: float16 would need loss"
            " scaling, and float64 or pure bfloat16 weights are not supported."
        )
    check_devices(devices, strategy)
    check_root(Path(default_root_dir))
    _, size, local_size = ranks()
    if not torch.cuda.is_available():
        # set by Lightning on import; every step of a torch optimizer would then load NVIDIA's library to look for a GPU
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    try:
        return Trainer(
            max_epochs=1,
            max_steps=-1,
            val_check_interval=1,  # a stretch of batches
            check_val_every_n_epoch=None,  # so that EarlyStopping looks after each validation, not after the one epoch
            num_sanity_val_steps=0,
            precision=fastest_precision(settings.get("accelerator", "auto")) if precision == "auto" else precision,  # pyright: ignore[reportArgumentType]
            devices=local_size,
            num_nodes=size // local_size,
            strategy="auto" if size == 1 else Replicas(),
            callbacks=callbacks,
            logger=False,
            plugins=[WholeCheckpointIO(), *environment()],
            default_root_dir=default_root_dir,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **settings,
        )
    except TypeError as error:
        raise ValueError(f"trainer: {error}; its settings are those of lightning.Trainer.") from error


def check_devices(devices: int | str, strategy: str) -> None:
    """Raise ValueError unless these are the devices of this process, or of those that were started with it."""
    if strategy not in ("auto", "ddp"):
        raise ValueError(f"trainer.strategy must be auto or ddp, which is what several devices mean, not {strategy}.")
    _, size, local_size = ranks()
    if not by_torchrun() and size > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(f"srun --ntasks={size}: Lightning wants to be told --ntasks-per-node instead.")
    if str(devices) in ("1", "auto", str(local_size)):
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

"""One run on several devices of this machine: torch's launcher starts a process for each and ends all if one ends."""

import json
import logging
import signal
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vae_lab.callbacks.signals import SIGNALS
from vae_lab.errors import Interrupted, RanksLost
from vae_lab.trial import read_summary

POLL = 0.1  # seconds between two looks at the processes


def launch(cfg: DictConfig, ndevices: int, facts: dict[str, Any]) -> None:
    """Train in `ndevices` processes, each of which is told config, logging and facts for the summary by a file.

    Raises:
        Interrupted: if a signal ended it; the processes were asked to save, and had 30 s.
        RanksLost: if one of them ended otherwise; it has said why.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it would print its own account of an error
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ndevices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=POLL,
    )
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(told(cfg) | {"facts": facts}, file)
        file.flush()
        try:
            elastic_launch(config, sys.executable)("-m", "vae_lab.rank", file.name)
        except ChildFailedError as error:
            raise what_happened(error, Path(cfg.folder)) from None
        except SignalException as error:
            raise Interrupted(error.sigval, "after a validation and a checkpoint, if there was time") from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def told(cfg: DictConfig) -> dict[str, Any]:
    """Return what each process is to know: the resolved config, and where log lines go."""
    logs = HydraConfig.get().job_logging if HydraConfig.initialized() else None
    return {
        "config": OmegaConf.to_container(cfg, resolve=True),
        "logging": None if logs is None else OmegaConf.to_container(logs, resolve=True),
    }


def what_happened(error: ChildFailedError, folder: Path) -> RanksLost:
    """Return what is known of the process that ended first: its own reason, or the signal that killed it."""
    codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    ended_by_launcher = -signal.SIGTERM  # because of another one
    rank = min(codes, key=lambda rank: (codes[rank] == ended_by_launcher, codes[rank] > 0, rank))
    if codes[rank] < 0:
        name = signal.Signals(-codes[rank]).name
        return RanksLost(f"process {rank} of this run was killed by {name}; the others were ended.")
    summary = read_summary(folder)
    reason = summary.get("reason") or f"process {rank} ended with exit code {codes[rank]}; see above."
    return RanksLost(str(reason), codes[rank])

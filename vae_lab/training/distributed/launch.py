"""Launching of a run on several devices with torch's elastic launcher."""

import json
import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vae_lab.errors import Interrupted, RanksLost
from vae_lab.runs.folder import read_summary, record
from vae_lab.system.signals import EndAtOnce, handled_signals
from vae_lab.training.distributed.failures import FailureReport, read_reports

POLL = 0.1  # seconds between two looks at the processes


def launch(cfg: DictConfig, ndevices: int, facts: dict[str, Any]) -> None:
    """Train in `ndevices` processes, each of which is told config, logging and facts for the summary by a file.

    The first of the processes writes the summary; if it knows less of the run's end than we do, we put it right.

    Raises:
        Interrupted: if a signal ended it; the processes were asked to save, and had 30 s.
        RanksLost: if one of them ended otherwise.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it would print its own account of an error
    handlers: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in handled_signals()}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ndevices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=POLL,
        signals_to_handle=",".join(number.name for number in handlers),
    )
    folder = Path(cfg.folder)
    before = read_summary(folder)
    with tempfile.TemporaryDirectory(prefix="vae_lab-") as shared:
        (Path(shared) / "told.json").write_text(json.dumps(told(cfg) | {"facts": facts}), encoding="utf-8")
        try:
            elastic_launch(config, sys.executable)("-m", "vae_lab.training.distributed.worker", shared)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            end = what_happened(codes, read_reports(Path(shared)))
            if read_summary(folder) != before:  # else it is not of this run, which never got so far
                record(folder, status=end.status, reason=str(end))
            raise end from None
        except SignalException as error:
            for handler in handlers.values():
                if isinstance(handler, EndAtOnce):
                    handler.begin()
            raise Interrupted(error.sigval, "after a validation and a checkpoint, if there was time") from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def told(cfg: DictConfig) -> dict[str, Any]:
    """Return what each process is to know: the resolved config, and where log lines go."""
    runs = HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir")
    logs = HydraConfig.get().job_logging if runs else None
    return {
        "config": OmegaConf.to_container(cfg, resolve=True),
        "logging": None if logs is None else OmegaConf.to_container(logs, resolve=True),
    }


def what_happened(codes: Mapping[int, int], words: Mapping[int, FailureReport]) -> RanksLost:
    """Return what is known of the process that ended first, and took the others with it.

    Who was killed, or left without a word, comes before those that had time to tell of something, and these before
    those that only tell that another one is gone.

    Args:
        codes: exit codes by rank, a signal's number negative, of those that had ended when the launcher looked.
        words: what the processes have left.
    """
    ended_by_launcher = -signal.SIGTERM  # because of another one
    silent = [rank for rank, code in sorted(codes.items()) if rank not in words and code != ended_by_launcher]
    for rank in sorted(silent, key=lambda rank: codes[rank] > 0):
        if codes[rank] < 0:
            name = signal.Signals(-codes[rank]).name
            return RanksLost(f"process {rank} of this run was killed by {name}; the others were ended.")
        return RanksLost(f"process {rank} of this run ended with exit code {codes[rank]} and did not report why.")
    if not words:
        return RanksLost("the processes of this run were ended by SIGTERM.")
    first = min(words.values(), key=lambda one: (one.echo, one.when))
    first = next(words[rank] for rank in sorted(words) if words[rank].reason == first.reason)
    return RanksLost(first.reason, first.code, first.status, first.account)

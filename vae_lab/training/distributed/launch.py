"""Launching a run on several devices with torch's elastic launcher."""

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

POLL = 0.1  # seconds between two checks of the processes


def launch(cfg: DictConfig, ndevices: int, facts: dict[str, Any]) -> None:
    """Train a run in `ndevices` processes, which read the config and `facts` for the summary from a file.

    Rank 0 writes the summary. If a process fails, this function corrects the status and the reason.

    Raises:
        Interrupted: if a signal ended the run; the processes had 30 s to write a checkpoint.
        RanksLost: if a process failed.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # torch would print the error a second time
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
        (Path(shared) / "settings.json").write_text(
            json.dumps(worker_settings(cfg) | {"facts": facts}), encoding="utf-8"
        )
        try:
            elastic_launch(config, sys.executable)("-m", "vae_lab.training.distributed.worker", shared)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            end = find_root_cause(codes, read_reports(Path(shared)))
            if read_summary(folder) != before:  # an unchanged summary belongs to an earlier run
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


def worker_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return what the worker processes read: the resolved config and Hydra's logging config."""
    runs = HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir")
    logs = HydraConfig.get().job_logging if runs else None
    return {
        "config": OmegaConf.to_container(cfg, resolve=True),
        "logging": None if logs is None else OmegaConf.to_container(logs, resolve=True),
    }


def find_root_cause(codes: Mapping[int, int], reports: Mapping[int, FailureReport]) -> RanksLost:
    """Return the error of the process that failed first and so ended the others.

    Processes that were killed or ended without a report come first, then reports of other errors, then reports that
    another process was lost.

    Args:
        codes: exit codes by rank, negative for signals, of the processes that ended before the launcher ended the rest.
        reports: failure reports by rank.
    """
    ended_by_launcher = -signal.SIGTERM  # because another process had failed
    silent = [rank for rank, code in sorted(codes.items()) if rank not in reports and code != ended_by_launcher]
    for rank in sorted(silent, key=lambda rank: codes[rank] > 0):
        if codes[rank] < 0:
            name = signal.Signals(-codes[rank]).name
            return RanksLost(f"process {rank} of this run was killed by {name}; the others were stopped.")
        return RanksLost(f"process {rank} of this run ended with exit code {codes[rank]} and did not report why.")
    if not reports:
        return RanksLost("the processes of this run were ended by SIGTERM.")
    first = min(reports.values(), key=lambda one: (one.echo, one.when))
    first = next(reports[rank] for rank in sorted(reports) if reports[rank].reason == first.reason)
    return RanksLost(first.reason, first.code, first.status, first.account)

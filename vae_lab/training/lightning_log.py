"""Filtering of Lightning's log messages."""

import logging
import warnings
from pathlib import Path

CHOSEN = ("callbacks", "profilers", "tuner")
"""The folders of Lightning whose code speaks only where a setting asks for it."""
HINTS = (
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed",
    ".*treespec, LeafSpec",
    "The `srun` command is available",
    "When using the `ThroughputMonitor`, you need to define",  # the operations of a batch, for a share of the peak
    "Using ModelCheckpoint with manual optimization",  # it stores the weights after the step, as otherwise
    "SWA is currently only supported every epoch",  # it says too which schedule it replaces
    r"`\.fit\(ckpt_path=None\)` was called without a model",  # OnExceptionCheckpoint looks for an earlier run
    r"\.fit\(ckpt_path=.last.\) is set, but there is no last checkpoint",
    "The number of training batches .* is smaller than the logging interval",  # which counts over the run
)


def is_asked_for(record: logging.LogRecord) -> bool:
    """Return whether a message tells of a fault, or comes from a callback, a profiler or a tuner."""
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name in CHOSEN


def quieten_lightning() -> None:
    """Leave out Lightning's hints; each of its lines would come twice under Hydra, too."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True  # off where Lightning was imported before a log was set up
    for name in (f"lightning.pytorch.{folder}" for folder in CHOSEN):
        logging.getLogger(name).setLevel(logging.INFO)
    shared = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    shared.setLevel(logging.INFO)
    if is_asked_for not in shared.filters:
        shared.addFilter(is_asked_for)
    for message in HINTS:
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")

"""Filtering of Lightning's log messages."""

import logging
import warnings
from pathlib import Path

CHOSEN = ("callbacks", "profilers", "tuner")
"""Folders of Lightning whose messages appear only if a setting asks for them."""
HINTS = (
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed",
    ".*treespec, LeafSpec",
    "The `srun` command is available",
    "When using the `ThroughputMonitor`, you need to define",  # FLOPs per batch, for the share of the peak
    "Using ModelCheckpoint with manual optimization",  # it stores the weights after the step, as with automatic
    "SWA is currently only supported every epoch",  # another message names the replaced schedule
    r"`\.fit\(ckpt_path=None\)` was called without a model",  # OnExceptionCheckpoint looks for an earlier run
    r"\.fit\(ckpt_path=.last.\) is set, but there is no last checkpoint",
    "The number of training batches .* is smaller than the logging interval",  # the interval counts over the run
)
"""Beginnings of Lightning's warnings that are ignored."""


def keep_record(record: logging.LogRecord) -> bool:
    """Return whether to show a log record: a warning, or a message of a Lightning callback, profiler or tuner."""
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name in CHOSEN


def quieten_lightning() -> None:
    """Hide Lightning's hints, and remove its log handlers, with which each line would appear twice under Hydra."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True  # False if Lightning was imported before logging was configured
    for name in (f"lightning.pytorch.{folder}" for folder in CHOSEN):
        logging.getLogger(name).setLevel(logging.INFO)
    shared = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    shared.setLevel(logging.INFO)
    if keep_record not in shared.filters:
        shared.addFilter(keep_record)
    for message in HINTS:
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")

"""Opening and closing the loggers of a run."""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from vae_lab.system.processes import ranks
from vae_lab.training.loggers.csv import MetricsTable
from vae_lab.training.loggers.pictures import takes_images
from vae_lab.training.loggers.wandb import masked_command_line

log = logging.getLogger(__name__)

Maker = Callable[[], Logger]


def open_loggers(makers: Mapping[str, Maker], folder: Path, hparams: dict[str, Any] | None) -> list[Logger]:
    """Return the chosen loggers, to which `hparams` are logged, and that of metrics.csv; [] on ranks above 0.

    Args:
        makers: factories of the chosen loggers, by name.
        folder: the run folder.
        hparams: the config without secrets; None logs no hyper-parameters.

    Raises:
        ValueError: if a package that a logger needs is missing.
    """
    if ranks().rank > 0:
        return []
    chosen: list[Logger] = []
    with ExitStack() as opened, masked_command_line():
        for name, make in makers.items():
            chosen.append(open_logger(name, make, hparams))
            opened.callback(close_logger, chosen[-1], exit_code=1)  # if a later logger cannot be opened
            if not takes_images(chosen[-1]):
                log.warning("logger.%s does not accept images; they are in %s", name, folder / "figures")
        opened.pop_all()
    return [*chosen, MetricsTable(folder / "metrics.csv")]


def open_logger(name: str, make: Maker, hparams: dict[str, Any] | None) -> Logger:
    """Return a new logger, to which the hyper-parameters have been logged.

    Raises:
        ValueError: if a package that it needs is missing.
    """
    try:
        logger = make()
        if hparams is not None:
            logger.log_hyperparams(hparams)
    except Exception as error:
        cause = error.__cause__ or error  # Hydra wraps the error
        if isinstance(cause, ImportError):
            raise ValueError(f"logger.{name}: {' '.join(str(cause).split())}") from error
        raise
    return logger


def close_logger(logger: Logger, exit_code: int) -> None:
    """Finish the run of a logger that has one, as W&B's has.

    Lightning leaves W&B's run open, and the next trial of a sweep would log to it.
    """
    if hasattr(logger, "close"):
        logger.close(exit_code=exit_code)  # pyright: ignore[reportAttributeAccessIssue]
    elif isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=exit_code)

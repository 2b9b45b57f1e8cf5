"""One training run in the tests' process for a row of docs/lightning.md, and what a callback sees of it."""

import copy
import csv
import json
import logging
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from vae_lab.cli.overrides import settle_limits
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import build_parts, train_run

TINY = (
    "data=synthetic",
    "data.image_size=8",
    "data.batch_size=12",  # of 48 images: four batches an epoch
    "model=mlp",
    "model.encoder.width=16",
    "model.nlatent=2",
    "logger=none",
    "trainer.max_steps=8",
    "trainer.val_check_interval=4",
    "trainer.log_every_n_steps=8",
    "trainer.precision=32-true",
    "~callbacks.gallery",
    "~callbacks.latents",
)
NETWORK = "task.adversaries.discriminator.network"
TASKS = {
    "one": ("task=vae",),
    "several": (
        "task=vaegan",
        f"{NETWORK}.widths=[4,4]",
        f"{NETWORK}.strides=[2,2]",
        f"{NETWORK}.layer=1",
        "task.warmup=2",
    ),
}
"""A task with one optimizer, and one with several."""
LOGGED = {"trainer.log_every_n_steps": 1}


@cache
def composed(column: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*TASKS[column], *TINY, "folder=nowhere"])


class Seen(Callback):
    """What somebody's callback is shown of a run, hook by hook."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        self.epochs: list[int] = []
        self.losses: list[float] = []
        self.gradients: list[Tensor] = []
        self.rates: list[float] = []
        self.validated: list[int] = []
        self.nval = self.ntest = self.nsanity = 0
        self.inference: set[bool] = set()
        self.deterministic: set[bool] = set()
        self.precisions: set[str] = set()
        self.trainer: Trainer | None = None
        self.task: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trainer, self.task = trainer, pl_module
        self.precisions.add(str(trainer.precision))
        self.deterministic.add(torch.are_deterministic_algorithms_enabled())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch.image.clone())
        self.epochs.append(trainer.current_epoch)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.flatten() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self.gradients.append(torch.cat(grads).clone())

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.nval += not trainer.sanity_checking
        self.nsanity += trainer.sanity_checking

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_test_batch_end(self, *_: Any) -> None:
        self.inference.add(torch.is_inference_mode_enabled())
        self.ntest += 1


@dataclass
class Run:
    """A run that is over."""

    seen: Seen
    summary: dict[str, Any]
    folder: Path
    epochs: list[list[Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = sorted(set(self.seen.epochs))
        pairs = list(zip(self.seen.epochs, self.seen.batches, strict=True))
        self.epochs = [[batch for epoch, batch in pairs if epoch == number] for number in numbers]

    @property
    def table(self) -> list[dict[str, str]]:
        with (self.folder / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def column(self, name: str) -> list[float]:
        return [float(row[name]) for row in self.table if row.get(name)]

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("checkpoints/*"))

    def checkpoint(self, name: str = "last") -> dict[str, Any]:
        return torch.load(self.folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@dataclass
class Row:
    """Trains for a row of the table, in one of its columns."""

    column: str
    folder: Path
    count: int = 0

    @property
    def is_one(self) -> bool:
        return self.column == "one"

    def config(self, settings: dict[str, Any]) -> DictConfig:
        self.count += 1
        cfg = copy.deepcopy(composed(self.column))
        cfg.folder = str(self.folder / f"run{self.count}")
        for name, value in settings.items():
            OmegaConf.update(cfg, name, value, merge=False, force_add=True)
        settle_limits(cfg, [f"{name}={value}" for name, value in settings.items()])
        return cfg

    def run(self, settings: dict[str, Any] | None = None, *callbacks: Callback) -> Run:
        cfg, seen = self.config(settings or {}), Seen()
        summary = train_run(cfg, [seen, *callbacks])
        assert json.loads((Path(cfg.folder) / "summary.json").read_text())["status"] == summary["status"]
        return Run(seen, summary, Path(cfg.folder))

    def build(self, settings: dict[str, Any] | None = None, *callbacks: Callback) -> tuple[Any, Any, Trainer]:
        return build_parts(self.config(settings or {}), {}, callbacks)


class Listener(Logger):
    """Somebody's logger, which leaves a file for the hyper-parameters and counts the metrics."""

    name = "listener"  # pyright: ignore[reportAssignmentType]
    version = 0  # pyright: ignore[reportAssignmentType]

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        (self.folder / "hyper_parameters").touch()

    def log_metrics(self, *_: Any, **__: Any) -> None:
        (self.folder / "metrics").touch()


class Heard(logging.Handler):
    """Keeps what the loggers say."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.said += record.getMessage()


def heard(row: Row, settings: dict[str, Any], *callbacks: Callback) -> str:
    """What a run says in the log and on the terminal, without Lightning's hints."""
    handler = Heard()
    try:
        with redirect_stdout(StringIO()) as terminal:
            row.run(settings, *callbacks)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "GPU available" not in handler.said
    return handler.said + terminal.getvalue()


Check = Callable[[Row], None]

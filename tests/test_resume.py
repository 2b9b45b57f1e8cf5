"""A run that was interrupted and goes on is the uninterrupted run, bit for bit, wherever it was interrupted."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from vae_lab.callbacks.signals import GracefulStop
from vae_lab.training import build

Compose = Callable[..., DictConfig]
COMMON = (
    "model=mlp",
    "model.nlatent=2",
    "data.image_size=8",
    "data.batch_size=8",  # 48 training images: 6 batches an epoch
    "trainer.val_check_interval=5",
    "callbacks.gallery=null",
    "callbacks.latents=null",
    "callbacks.improvement=null",
    "schedule=one_cycle",
    "schedule.total_steps=40",
)
LIMITS = {"max_steps": ("trainer.max_steps=16",), "max_epochs": ("trainer.max_steps=-1", "trainer.max_epochs=3")}
PLACES = {
    "first batch": ("batch", 1),
    "middle of the first epoch": ("batch", 4),
    "last batch of an epoch": ("batch", 6),
    "first batch of the second epoch": ("batch", 7),
    "batch with a validation": ("batch", 10),
    "last batch of the second epoch": ("batch", 12),
    "in the first validation": ("validation", 1),
    "end of an epoch": ("epoch", 1),
}


class Signal(Callback):
    """Sends SIGTERM to this process at a place of training, and counts what was trained on."""

    def __init__(self, kind: str = "", number: int = 0) -> None:
        self.kind = kind
        self.number = number
        self.count = {"batch": 0, "validation": 0, "epoch": 0}
        self.losses: list[float] = []

    def come(self, kind: str) -> None:
        self.count[kind] += 1
        if (kind, self.count[kind]) == (self.kind, self.number):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, *_: object) -> None:
        self.come("batch")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: object) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_validation_start(self, *_: object) -> None:
        self.come("validation")

    def on_train_epoch_end(self, *_: object) -> None:
        self.come("epoch")


def fit(cfg: DictConfig, watcher: Signal, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train and return the last checkpoint."""
    with GracefulStop() as stop:
        data, task, trainer = build(cfg, {}, [watcher])
        trainer.callbacks.insert(0, stop)  # pyright: ignore[reportAttributeAccessIssue]
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return torch.load(Path(cfg.folder) / "checkpoints" / "last.ckpt", weights_only=True)


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["global_step"] == other["global_step"]
    assert one["epoch"] == other["epoch"]
    for name, weight in one["state_dict"].items():
        assert weight.equal(other["state_dict"][name]), name
    assert str(one["optimizer_states"]) == str(other["optimizer_states"])
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert one["metrics"] == other["metrics"]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_run_goes_on_bit_for_bit(config: Compose, tmp_path: Path, limit: str, accumulate: int) -> None:
    settings = (*COMMON, *LIMITS[limit], f"trainer.accumulate_grad_batches={accumulate}")
    if limit == "max_steps" and accumulate == 3:
        settings = (*settings, "trainer.max_steps=6")
    seen = Signal()
    whole = fit(config(*settings, folder="whole"), seen)
    for index, (name, place) in enumerate(PLACES.items()):
        first, second = Signal(*place), Signal()
        stopped = fit(config(*settings, folder=f"{index}-first"), first)
        assert stopped["global_step"] < whole["global_step"], name
        resumed = fit(
            config(*settings, folder=f"{index}-second"),
            second,
            tmp_path / f"{index}-first" / "checkpoints" / "last.ckpt",
        )
        assert first.losses + second.losses == seen.losses, name
        check_same(whole, resumed)


@pytest.mark.parametrize("interval", [6, 4])
def test_a_finished_run_is_extended_bit_for_bit(config: Compose, tmp_path: Path, interval: int) -> None:
    settings = (*COMMON, f"trainer.val_check_interval={interval}")
    whole = fit(config(*settings, "trainer.max_steps=-1", "trainer.max_epochs=3", folder="whole"), Signal())
    for limit in ("trainer.max_epochs=2", "trainer.max_steps=12"):
        begun = ("trainer.max_steps=-1", limit)
        fit(config(*settings, *begun, folder=limit.replace("=", "-")), Signal())
        for longer in ("trainer.max_epochs=3", "trainer.max_steps=18"):
            cfg = config(*settings, "trainer.max_steps=-1", longer, folder=f"{limit}-{longer}".replace("=", "-"))
            resumed = fit(cfg, Signal(), tmp_path / limit.replace("=", "-") / "checkpoints" / "last.ckpt")
            check_same(whole, resumed)

"""A run that was interrupted and goes on is the uninterrupted run, bit for bit, wherever it was interrupted."""

import csv
import json
import logging
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from invoking import invoke
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from vae_lab.train import main
from vae_lab.training.callbacks.graceful_stop import GracefulStop
from vae_lab.training.resume import continued, load_initial_weights
from vae_lab.training.run import build_parts, train_run

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


FEWER = ("middle of the first epoch", "last batch of an epoch", "in the first validation", "end of an epoch")
"""Places where the limit and accumulated gradients could make a difference."""


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
        data, task, trainer = build_parts(cfg, {}, [watcher])
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


@pytest.mark.parametrize(
    ("limit", "accumulate", "places"),
    [
        ("max_steps", 1, FEWER),
        ("max_epochs", 3, FEWER),
        pytest.param("max_steps", 1, PLACES, marks=pytest.mark.slow),
        pytest.param("max_steps", 3, FEWER, marks=pytest.mark.slow),
        pytest.param("max_epochs", 1, FEWER, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_bit_for_bit(
    config: Compose, tmp_path: Path, limit: str, accumulate: int, places: Iterable[str]
) -> None:
    settings = (*COMMON, *LIMITS[limit], f"trainer.accumulate_grad_batches={accumulate}")
    if limit == "max_steps" and accumulate == 3:
        settings = (*settings, "trainer.max_steps=6")
    seen = Signal()
    whole = fit(config(*settings, folder="whole"), seen)
    for index, name in enumerate(places):
        first, second = Signal(*PLACES[name]), Signal()
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
    for limit, longer in (("max_epochs=2", "max_steps=18"), ("max_steps=12", "max_epochs=3")):
        first, second = (f"{name}-{interval}".replace("=", "-") for name in (limit, longer))
        fit(config(*settings, "trainer.max_steps=-1", f"trainer.{limit}", folder=f"{first}-begun"), Signal())
        cfg = config(*settings, "trainer.max_steps=-1", f"trainer.{longer}", folder=f"{second}-extended")
        check_same(whole, fit(cfg, Signal(), tmp_path / f"{first}-begun" / "checkpoints" / "last.ckpt"))


class Start(Callback):
    """Keeps the weights at the start of training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = {name: weight.clone() for name, weight in pl_module.state_dict().items()}


def test_a_run_that_averages_goes_on_from_the_weights_in_training(config: Compose, tmp_path: Path) -> None:
    settings = ("callbacks=[default,swa]", "callbacks.swa.swa_epoch_start=1", *COMMON, "trainer.max_steps=-1")
    train_run(config(*settings, "trainer.max_epochs=3", folder="first"))
    stored = torch.load(tmp_path / "first" / "checkpoints" / "last.ckpt", weights_only=True)
    start, first = Start(), tmp_path / "first"
    train_run(config(*settings, "trainer.max_epochs=4", f"resume={first}", folder="second"), [start])
    in_training, average = stored["unaveraged_state_dict"], stored["state_dict"]
    assert all(weight.equal(in_training[name]) for name, weight in start.weights.items())
    assert not all(weight.equal(average[name]) for name, weight in start.weights.items())


def test_a_stock_callback_logs_at_the_same_steps_after_a_resume(config: Compose, tmp_path: Path) -> None:
    settings = ("callbacks=[default,lr_monitor]", *COMMON, "trainer.log_every_n_steps=1")
    train_run(config(*settings, "trainer.max_steps=10", folder="whole"))
    train_run(config(*settings, "trainer.max_steps=4", folder="first"))
    train_run(config(*settings, "trainer.max_steps=10", f"resume={tmp_path / 'first'}", folder="second"))

    def monitored(folder: str) -> dict[str, str]:
        with (tmp_path / folder / "metrics.csv").open(newline="") as file:
            return {row["step"]: row["lr-Adam"] for row in csv.DictReader(file) if row["lr-Adam"]}

    assert len(monitored("whole")) == 10
    assert monitored("first") | monitored("second") == monitored("whole")


TYPED = ("data=synthetic", "data.image_size=8", "data.batch_size=8", "model=mlp", "model.nlatent=2", "seed=3")
QUIET = ("trainer.val_check_interval=4", "trainer.log_every_n_steps=2", "trainer.precision=32-true")
QUIET = (*QUIET, "~callbacks.gallery", "~callbacks.latents", "~callbacks.improvement")


def rows(folder: Path) -> dict[str, list[str]]:
    """The steps in metrics.csv at which there are numbers of each part."""
    with (folder / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = ("train/loss", "val/neg_elbo", "test/neg_elbo")
    return {name.partition("/")[0]: [row["step"] for row in table if row.get(name)] for name in names}


def trained_by_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return invoke(main, "train", *arguments, monkeypatch=monkeypatch)


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def test_resume_alone_goes_on_in_the_folder_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = (*TYPED, *QUIET, "logger=wandb")
    assert trained_by_command(monkeypatch, *common, "trainer.max_steps=16", "folder=whole") == 0
    assert trained_by_command(monkeypatch, *common, "trainer.max_steps=10", "folder=run") == 0
    before = summary_of(tmp_path / "run")
    assert trained_by_command(monkeypatch, "resume=run") == 2
    assert "that run has completed its 10 steps; set a larger trainer.max_steps" in "".join(capfd.readouterr())
    assert summary_of(tmp_path / "run") == before
    assert trained_by_command(monkeypatch, "resume=run", "trainer.max_steps=16") == 0
    after, whole = summary_of(tmp_path / "run"), summary_of(tmp_path / "whole")
    assert (after["steps"], after["wandb_id"]) == (16, before["wandb_id"])
    assert after["test/neg_elbo"] == whole["test/neg_elbo"]
    assert len(list((tmp_path / "run").glob("wandb/offline-run-*"))) == 2
    assert not (tmp_path / "outputs").exists()
    overrides = [(tmp_path / "run" / name / "overrides.yaml").read_text() for name in (".hydra", ".hydra-2")]
    assert "resume" not in overrides[0]
    assert "resume=run" in overrides[1]
    expected = rows(tmp_path / "whole")
    assert rows(tmp_path / "run") == {
        "train": expected["train"],
        "val": ["4", "8", "10", "12", "16"],
        "test": ["10", "16"],
    }
    ours, theirs = (torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True) for n in ("run", "whole"))
    assert all(weight.equal(theirs["state_dict"][name]) for name, weight in ours["state_dict"].items())


def test_a_run_that_began_with_init_is_resumed_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert trained_by_command(monkeypatch, *TYPED, *QUIET, "trainer.max_steps=2", "folder=first") == 0
    common = (*TYPED, *QUIET, f"init={tmp_path / 'first'}", "trainer.max_steps=4")
    assert trained_by_command(monkeypatch, *common, "folder=second") == 0
    assert trained_by_command(monkeypatch, "resume=second", "trainer.max_steps=8") == 0
    assert summary_of(tmp_path / "second")["steps"] == 8


DOUBTFUL = {
    "a class": "+callbacks.x._target_=os.system",
    "a nested class": "+callbacks.x={_target_:os.system}",
    "a place": "callbacks.checkpoint.dirpath=/tmp/elsewhere",
    "a variable": "group=${oc.env:HOME}",
    "Hydra": "hydra.searchpath=[evil]",
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_strangers_folder_chooses_no_class_and_no_place(name: str, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    images = "data.root=/somewhere/images"
    for overrides, refused in (([images], False), ([images, DOUBTFUL[name]], True)):
        (tmp_path / "run" / "summary.json").write_text(json.dumps({"overrides": overrides}))
        if not refused:
            assert images in continued([f"resume={tmp_path / 'run'}"])
            continue
        with pytest.raises(ValueError, match="names a class or a path and is not read from a file; type it again"):
            continued([f"resume={tmp_path / 'run'}"])


def test_an_earlier_better_checkpoint_is_carried_along(config: Compose, tmp_path: Path) -> None:
    unweighted = (*TYPED, *QUIET, "objective.beta=0.0", "optimizer.lr=0.01", "trainer.val_check_interval=2")
    whole = train_run(config(*unweighted, "trainer.max_steps=12", folder="whole"))
    train_run(config(*unweighted, "trainer.max_steps=8", folder="first"))
    (tmp_path / "first").rename(tmp_path / "moved")
    for resume, folder in (("moved", "second"), ("second", "third")):
        steps = 10 if folder == "second" else 12
        resumed = train_run(
            config(*unweighted, f"trainer.max_steps={steps}", f"resume={tmp_path / resume}", folder=folder)
        )
    best = [torch.load(tmp_path / n / "checkpoints/best.ckpt", weights_only=True) for n in ("whole", "third")]
    assert best[0]["global_step"] == best[1]["global_step"] < 8
    assert resumed["test/neg_elbo"] == whole["test/neg_elbo"]


DIFFERENT = {
    "trainer.accumulate_grad_batches=2": r"trainer.accumulate_grad_batches=1 \(here 2\)",
    "trainer.gradient_clip_val=1.0": r"trainer.gradient_clip_val=null \(here 1\)",
    "data.batch_size=4": r"data.batch_size=8 \(here 4\)",
}
MAY_DIFFER = ("data.eval_batch_size=3", "trainer.log_every_n_steps=1", "trainer.val_check_interval=5", "threads=1")


def test_what_may_change_and_what_may_not_is_told_key_by_key(config: Compose, tmp_path: Path) -> None:
    train_run(config(*TYPED, *QUIET, folder="first"))
    for override, said in DIFFERENT.items():
        with pytest.raises(ValueError, match=said):
            train_run(
                config(*TYPED, *QUIET, override, "trainer.max_steps=8", f"resume={tmp_path / 'first'}", folder="no")
            )
    resumed = train_run(
        config(*TYPED, *QUIET, *MAY_DIFFER, "trainer.max_steps=8", f"resume={tmp_path / 'first'}", folder="yes")
    )
    assert resumed["steps"] == 8


def test_a_planned_learning_rate_is_not_extended(config: Compose, tmp_path: Path) -> None:
    train_run(config(*TYPED, *QUIET, "schedule=one_cycle", folder="first"))
    longer = ("schedule=one_cycle", "trainer.max_steps=8", f"resume={tmp_path / 'first'}")
    with pytest.raises(ValueError, match=r"its learning rate was scheduled for trainer.max_steps=4, .* init="):
        train_run(config(*TYPED, *QUIET, *longer, folder="second"))


def test_init_starts_anew_from_weights_and_lists_what_does_not_fit(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run(config(*TYPED, *QUIET, folder="first"))
    stored = torch.load(tmp_path / "first/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    init = f"init={tmp_path / 'first'}"
    _, task, _ = build_parts(config(*TYPED, *QUIET), {})
    assert not all(weight.equal(stored[name]) for name, weight in task.model.state_dict(prefix="model.").items())
    assert load_initial_weights(task, str(tmp_path / "first"))["init"]["fresh"] == []
    assert all(weight.equal(stored[name]) for name, weight in task.model.state_dict(prefix="model.").items())
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        summary = train_run(config(*TYPED, *QUIET, init, "model.nlatent=3", "data.nimages=80", folder="second"))
    assert (summary["steps"], summary["status"]) == (4, "completed")
    said: Any = summary["init"]
    assert said["loaded"] > 0
    assert f"no stored weights match, initialised randomly: {', '.join(said['fresh'])}" in caplog.text
    _, task, _ = build_parts(config(*TYPED, *QUIET, "task=vaegan", "data.image_size=16", "model.image_size=8"), {})
    load_initial_weights(task, str(tmp_path / "first"))
    learner: Any = task.learner
    assert all(weight.equal(stored[f"model.{name}"]) for name, weight in learner.state_dict().items())
    with pytest.raises(ValueError, match=r"none of its weights matches this model"):
        train_run(config("data=synthetic", "model=conv", init, folder="third"))
    with pytest.raises(ValueError, match=r"choose one"):
        train_run(config(*TYPED, *QUIET, init, f"resume={tmp_path / 'first'}", folder="fourth"))

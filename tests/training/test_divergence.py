"""What is finite and not well: runs that end worse than they began, infinite moments, latents that carry nothing."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig
from sabotage import Spoil

from vae_lab.errors import DivergedError, exit_code
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]
PLAIN = ("~callbacks.gallery", "model=mlp")
JUDGED = (*PLAIN, "callbacks.improvement.min_batches=2")


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


UNSOUND = {
    "an infinite moment": (
        ("trainer.val_check_interval=4",),
        [Spoil("a moment")],
        "a number of the optimizer's state is inf",
    ),
    "a weight that nothing shows": (
        ("trainer.val_check_interval=4", "trainer.log_every_n_steps=100"),
        [Spoil("nan", 4)],
        "a weight is nan",
    ),
    "a loss between two logs": (
        ("trainer.val_check_interval=4", "trainer.log_every_n_steps=100"),
        [Spoil("nan")],
        "the training loss is nan after 4 batches",
    ),
    "anomaly detection": (
        ("trainer.detect_anomaly=true", "trainer.val_check_interval=4", "trainer.log_every_n_steps=100"),
        [Spoil("nan")],
        "returned nan values in its",
    ),
    "worse than it began": (("trainer.val_check_interval=4",), [Spoil("large weights")], "try a smaller optimizer.lr"),
    "lr=1e3": (("optimizer.lr=1e3",), [], "try a smaller optimizer.lr"),
    "beta=1e38": (("objective.beta=1e38",), [], "try a smaller optimizer.lr"),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
@pytest.mark.parametrize("name", UNSOUND)
def test_a_run_that_is_finite_and_not_well_has_diverged(name: str, config: Compose, tmp_path: Path) -> None:
    settings, watchers, said = UNSOUND[name]
    with pytest.raises(DivergedError) as caught:
        train_run(config(*JUDGED, *settings), watchers)
    assert said in str(caught.value)
    assert exit_code(caught.value) == 4
    summary = summary_of(tmp_path / "run")
    assert (summary["status"], summary["reason"]) == ("diverged", str(caught.value))
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)
        moments = [m for o in state["optimizer_states"] for one in o["state"].values() for m in one.values()]
        assert all(torch.as_tensor(number).isfinite().all() for number in [*state["state_dict"].values(), *moments])


def test_any_checkpoint_is_of_finite_numbers(config: Compose, tmp_path: Path) -> None:
    """Somebody's own callback stores at moments of its choice, as before the first validation."""
    every = ModelCheckpoint(dirpath=tmp_path / "own", every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(DivergedError, match="a weight is nan after 2 batches"):
        train_run(
            config(*PLAIN, "trainer.val_check_interval=2", "trainer.log_every_n_steps=100"), [Spoil("nan", 2), every]
        )
    assert [path.name for path in (tmp_path / "own").glob("*.ckpt")] == ["epoch=0-step=1.ckpt"], "the one before"


HEALTHY: dict[str, tuple[str, ...]] = {
    "beta=1000": ("objective.beta=1000.0",),
    "beta=0": ("objective.beta=0.0",),
    "autoencoder": ("objective=autoencoder",),
    "iwae": ("objective=iwae",),
    "sigma_vae": ("likelihood=sigma_vae",),
    "logistic": ("likelihood=logistic",),
    "vamp": ("prior=vamp",),
    "lr=0": ("optimizer.lr=0",),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_has_not_diverged(name: str, config: Compose) -> None:
    summary = train_run(
        config(*JUDGED, "~callbacks.latents", "trainer.max_steps=6", "trainer.val_check_interval=6", *HEALTHY[name])
    )
    assert summary["status"] == "completed"
    improvement: Any = summary["improvement"]
    assert improvement["after"] <= improvement["before"] + abs(improvement["before"]) / 100


WARNED = {
    "a short run": (("callbacks.improvement.min_batches=20",), "tested weights: the loss of"),
    "last weights": (("trainer.val_check_interval=1",), "last.ckpt: the loss of the first validation images is"),
    "a game": (("task=vaegan", "task.warmup=100", "data.batch_size=8"), "tested weights: the loss of"),
}


@pytest.mark.parametrize("name", WARNED)
def test_a_run_that_may_be_worse_is_warned_of(name: str, config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    settings, said = WARNED[name]
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        summary = train_run(config(*JUDGED, "trainer.val_check_interval=4", *settings), [Spoil("large weights", 4)])
    assert summary["status"] == "completed"
    assert said in caplog.text


def test_a_run_that_goes_on_is_warned_of(config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_run(config(*JUDGED, "trainer.max_steps=2", folder="first"))
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        train_run(
            config(*JUDGED, "trainer.val_check_interval=4", f"resume={tmp_path / 'first'}"), [Spoil("large weights", 4)]
        )
    assert "when the run resumed" in caplog.text


@pytest.mark.parametrize("model", ["mlp", "ladder_mlp"])
@pytest.mark.parametrize(("bound", "ends"), [(1e6, "0 of"), (0.0, "latents carry more")])
def test_latents_that_carry_nothing_are_told(
    model: str, bound: float, ends: str, config: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        summary = train_run(config(*PLAIN, f"model={model}", f"callbacks.latents.active_above={bound}"))
    assert ends in str(summary["latents"])
    assert (summary["active_latents"] == 0) == (bound > 0)
    assert ("the decoder ignores them" in caplog.text) == (bound > 0)

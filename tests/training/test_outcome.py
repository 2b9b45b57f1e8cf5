"""How a run ends that is not complete, or not alone."""

import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from omegaconf import DictConfig
from sabotage import Signals, Spoil

from vae_lab.errors import DivergedError, Interrupted, StorageError, TimeLimit, exit_code, status
from vae_lab.system.locks import hold
from vae_lab.training.run import judgement, train_run

Compose = Callable[..., DictConfig]
PLAIN = ("~callbacks.gallery", "model=mlp")


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


class Asks(Callback):
    """Asks the trainer to stop, at a hook of its choice."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.ask)

    def ask(self, trainer: Trainer, *args: object, **kwargs: object) -> None:
        trainer.should_stop = True


BOUND = "nats of an image, an upper bound on -log p(x)"
PIXELS = "squared error of a pixel; evaluate measures the samples too"
STOPPED: dict[str, tuple[Callable[[], Callback], int, str]] = {
    "early": (lambda: EarlyStopping("val/neg_elbo", patience=1, min_delta=1e9), 4, "EarlyStopping: Monitored metric"),
    "before a batch": (lambda: Asks("on_train_batch_start"), 1, "a callback, by trainer.should_stop"),
    "in a validation": (lambda: Asks("on_validation_end"), 2, "a callback, by trainer.should_stop"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_callback_that_stops_a_run_is_heard_and_named(
    name: str, config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, steps, said = STOPPED[name]
    with caplog.at_level(logging.INFO, logger="vae_lab"):
        summary = train_run(config("model=mlp", "trainer.max_steps=40", "callbacks.latents.nimages=8"), [make()])
    assert (summary["status"], summary["steps"], summary["max_steps"]) == ("completed", steps, 40)
    assert said in str(summary["ended_by"])
    assert f"ended by {summary['ended_by']} after {steps} steps" in caplog.text
    assert (tmp_path / "run" / "figures" / "latents.png").exists()


JUDGED = {
    "squared error": ((), "test/sse_kl 2.00 (lower is better): squared error + KL of an image"),
    "another variance": (("likelihood=gaussian",), f"test/neg_elbo 1.00 (lower is better): {BOUND}"),
    "a learned variance": (("likelihood=sigma_vae",), f"test/neg_elbo 1.00 (lower is better): {BOUND}"),
    "weighted": (("objective.beta=4.0",), "test/sse_kl 2.00 (lower is better): squared error + KL of an image"),
    "levels": (
        ("likelihood=logistic",),
        f"test/neg_elbo 1.00 (lower is better): {BOUND}; {1 / 256 / math.log(2):.3f} bits per dimension",
    ),
    "no bound": (("objective=rae_l2",), f"test/mse 0.0300 (lower is better): {PIXELS}"),
    "more than a bound": (("task=vaegan", "model=conv"), f"test/mse 0.0300 (lower is better): {PIXELS}"),
}


@pytest.mark.parametrize("name", JUDGED)
def test_a_run_ends_with_the_number_that_judges_it(name: str, config: Compose) -> None:
    settings, said = JUDGED[name]
    task = instantiate(config("model=mlp", *settings).task, _convert_="all")
    assert judgement(task, {"test/neg_elbo": 1.0, "test/sse_kl": 2.0, "test/mse": 0.03}) == said
    assert judgement(task, {}) == "not tested, as trainer.limit_test_batches=0 asks for"


def test_a_run_whose_time_is_up_is_not_completed(config: Compose, tmp_path: Path) -> None:
    long = config(*PLAIN, "trainer.max_steps=1000000", "trainer.val_check_interval=1000000")
    with pytest.raises(TimeLimit) as caught:
        train_run(long, [Timer(timedelta(seconds=1))])
    summary = summary_of(tmp_path / "run")
    assert (exit_code(caught.value), status(caught.value), summary["status"]) == (75, "stopped", "stopped")
    assert f"training ended by trainer.max_time or a Timer after {summary['steps']} steps" in str(caught.value)
    assert summary["ended_by"] == "trainer.max_time or a Timer"
    assert "test/neg_elbo" in summary
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == summary["steps"]


class Remove(Callback):
    """Removes a folder."""

    def __init__(self, folder: Path, hook: str) -> None:
        self.folder = folder
        setattr(self, hook, self.strike)

    def strike(self, *args: object, **kwargs: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_end", "on_test_start"])
def test_a_run_whose_folder_was_removed_is_not_completed(hook: str, config: Compose, tmp_path: Path) -> None:
    with pytest.raises((StorageError, OSError)) as caught:
        train_run(config(*PLAIN), [Remove(tmp_path / "run", hook)])
    assert exit_code(caught.value) == 5
    assert summary_of(tmp_path / "run")["status"] == "failed"


def closed_with(folder: Path) -> int:
    """The exit code with which W&B's offline file ends."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    return json.loads(lines[-1])["exit"]["exit_code"]


ENDS: dict[str, tuple[Callback, type[BaseException]]] = {
    "diverged": (Spoil("nan"), DivergedError),
    "interrupted": (Signals(number=15, hook="batch"), Interrupted),
    "interrupted in the test": (Signals(number=15, hook="on_test_start"), Interrupted),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_did_not_complete_is_closed_as_failed_in_wandb(name: str, config: Compose, tmp_path: Path) -> None:
    watcher, error = ENDS[name]
    with pytest.raises(error):
        train_run(config(*PLAIN, "logger=wandb"), [watcher])
    assert closed_with(tmp_path / "run") == 1


def test_of_two_runs_in_one_folder_the_second_is_refused(config: Compose, tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from vae_lab.sweeps.trial import hold\n"
    program += "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ValueError, match=f"process {other.pid} .* is using this folder"):
            train_run(config(*PLAIN))
        other.kill()
    assert not (tmp_path / "run" / "summary.json").exists()
    with hold(tmp_path / "run"):  # as a sweep does around its trial
        assert train_run(config(*PLAIN))["status"] == "completed"

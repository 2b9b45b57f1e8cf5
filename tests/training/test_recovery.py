"""What a game against adversaries goes back to, and when it ends."""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from invoking import invoke
from omegaconf import DictConfig
from test_vaegan import CVAEGAN, QUICK, VAEGAN, WARM, moved, played
from torch import Tensor

from vae_lab.errors import DivergedError
from vae_lab.train import main
from vae_lab.training.distributed.gradients import all_finite
from vae_lab.training.run import build_parts
from vae_lab.training.tasks.perceptual import Perceptual
from vae_lab.training.tasks.vaegan import VAEGANTask

Compose = Callable[..., DictConfig]
WATCHED = (
    *VAEGAN,
    "task.guard.every=4",
    "trainer.max_steps=20",
    "trainer.val_check_interval=20",
    "trainer.log_every_n_steps=50",
)


class Spoilt(Perceptual):
    """0, with a gradient that is no number once there were `after` calls."""

    def __init__(self, value: float, after: int, until: float) -> None:
        super().__init__()
        self.value = value
        self.after = after
        self.until = until
        self.calls = 0

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        self.calls += 1
        nothing = 0 * reconstruction.sum((1, 2, 3))
        if self.after < self.calls <= self.until:
            nothing.register_hook(lambda gradient: gradient + self.value)
        return nothing


def spoilt(config: Compose, value: float, after: int, until: float = math.inf) -> tuple[VAEGANTask, Callable[[], None]]:
    """A task whose gradients go wrong, and what fits it."""
    data, task, trainer = build_parts(config(*WATCHED), {})
    assert isinstance(task, VAEGANTask)
    task.perceptual = Spoilt(value, after, until)
    return task, lambda: trainer.fit(task, datamodule=data)


@pytest.mark.parametrize(
    ("value", "batch"), [(math.nan, 12), (math.inf, 13)], ids=["where the guard looks", "elsewhere"]
)
def test_a_gradient_that_is_no_number_moves_nothing_and_is_gone_back_from(
    config: Compose, caplog: pytest.LogCaptureFixture, value: float, batch: int
) -> None:
    task, fit = spoilt(config, value, batch - 1, batch)
    with caplog.at_level(logging.WARNING, logger="vae_lab"):
        fit()
    said = [record.getMessage() for record in caplog.records if "restored the weights of batch" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"batch {batch}: a gradient is not finite; restored the weights of batch ")
    assert task.global_step == 20
    assert all_finite(task.model, task.learner, task.adversaries)
    assert task.snapshot.state is not None
    for part in ("model", "learner", "adversaries"):
        assert all(weight.isfinite().all() for weight in task.snapshot.state[part].values())
    assert task.guard.scale == 0.5


def test_weights_that_are_no_numbers_are_never_kept(config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch, optimizers = played(config, *WATCHED)
    task.step(batch, WARM, *optimizers)
    before = task.snapshot.state
    parameter = next(iter(task.learner.parameters()))
    task.guard.well = True
    monkeypatch.setattr(task.guard, "look", lambda: None)
    parameter.data[0] = math.inf
    task.watch(16, *optimizers, is_finite=True)
    assert task.snapshot.state is before
    assert all_finite(task.learner)
    assert task.guard.ncollapses == 1


def test_a_gradient_that_is_no_number_in_the_warm_up_ends_the_run(config: Compose) -> None:
    task, fit = spoilt(config, math.nan, 1)
    with pytest.raises(DivergedError, match="a gradient is nan after 2 batches"):
        fit()
    assert all_finite(task.learner)


def test_a_run_that_collapses_again_and_again_ends_as_diverged(
    config: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    task, fit = spoilt(config, math.nan, 8)
    with (
        caplog.at_level(logging.WARNING, logger="vae_lab"),
        pytest.raises(DivergedError, match="after 5 earlier collapses"),
    ):
        fit()
    assert len([record for record in caplog.records if "restored the weights" in record.getMessage()]) == 5
    assert task.global_step == 8 + 6


def test_what_is_gone_back_to_is_warmed_up_from_the_start(config: Compose) -> None:
    """A game that was never good goes back to the end of the warm-up, not to an adversary that has learnt nothing."""
    task, batch, optimizers = played(config, *VAEGAN, "task.warmup=3")
    fresh = {name: weight.clone() for name, weight in task.adversaries.named_parameters()}
    for step in range(6):
        assert task.snapshot.state is None
        moved(task, batch, optimizers, step)
    warm = copy.deepcopy(task.adversaries.state_dict())
    task.step(batch, 6, *optimizers)
    assert task.snapshot.state is not None
    task.roll_back(7, "samples are alike", *optimizers)
    assert task.snapshot.state["step"] == 6
    for name, weight in task.adversaries.named_parameters():
        assert weight.equal(warm[name])
        assert not weight.equal(fresh[name])


def test_without_a_distortion_feature_matching_reconstructs_from_the_start(config: Compose) -> None:
    """Larsen et al.'s setting, in which nothing else asks for reconstructions: the posterior would collapse."""
    settings = (*VAEGAN, "task.adversarial_ratio=0.0")
    for distortion, acts in ((0.0, True), (1.0, False)):
        learnt = []
        for feature_matching in (0.0, 1.0):
            some = (
                f"task.distortion={distortion}",
                f"task.adversaries.discriminator.feature_matching={feature_matching}",
            )
            task, batch, optimizers = played(config, *settings, *some)
            torch.manual_seed(0)
            numbers = task.step(batch, 0, *optimizers)
            learnt.append((task.learner.state_dict(), numbers["loss"]))
        assert acts == any(not one.equal(other) for one, other in zip(*(w.values() for w, _ in learnt), strict=True))
        assert acts == (not learnt[0][1].equal(learnt[1][1]))


BAD = {
    "one bound": (("task.weight_bounds=[1.0]",), "task.weight_bounds=[1.0] must be two numbers"),
    "a number for bounds": (("task.weight_bounds=5",), "task.weight_bounds=5 must be two numbers"),
    "words for bounds": (("task.weight_bounds=[a,b]",), "task.weight_bounds=['a', 'b'] must be two numbers"),
    "no discriminator": (("~task.adversaries.discriminator",), "task.adversaries needs a discriminator"),
    "distortion nan": (("task.distortion=nan",), "task.distortion must be a finite number of at least 0, not nan"),
    "adversarial_ratio inf": (
        ("task.adversarial_ratio=inf",),
        "task.adversarial_ratio must be a finite number of at least 0, not inf",
    ),
    "worst below 0": (("task.guard.worst=-1.0",), "task.guard.worst must be a finite number above 0"),
    "worst nan": (("task.guard.worst=nan",), "task.guard.worst must be a finite number above 0"),
    "no collapse": (("task.guard.most=0",), "task.guard.most must be a whole number"),
    "spread below 0": (("task.guard.spread=-1.0",), "task.guard.spread must lie in [0, 1]"),
    "an adversary's lr": (("task.adversary_optimizer.lr=-1",), "task.adversary_optimizer.lr=-1"),
    "one image": (("data.batch_size=1",), "data.batch_size=1 gives no spread"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_setting_that_is_wrong_ends_in_one_sentence(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    settings, sentence = BAD[name]
    monkeypatch.chdir(tmp_path)
    arguments = ("data=synthetic", *QUICK, "trainer.max_steps=2", "trainer.val_check_interval=2", "logger=none")
    task = CVAEGAN if name == "no discriminator" else VAEGAN
    assert invoke(main, "train", *arguments, *task, *settings, "folder=run", monkeypatch=monkeypatch) == 2
    printed = "".join(capfd.readouterr())
    assert sentence in printed
    assert "Traceback" not in printed

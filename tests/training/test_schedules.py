"""Schedules of the learning rate, and the length of training that they follow."""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from omegaconf import DictConfig
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run
from vae_lab.training.schedules import make_schedule, warm_up_and_cosine

Compose = Callable[..., DictConfig]


def optimizer(lr: float = 1.0, **settings: Any) -> SGD:
    return SGD([torch.zeros(1, requires_grad=True)], lr=lr, **settings)


def rates(schedule: LRScheduler, nsteps: int) -> list[float]:
    """The learning rate of each step, and what it is after the last."""
    found = [schedule.get_last_lr()[0]]
    for _ in range(nsteps):
        schedule.optimizer.step()
        schedule.step()
        found += schedule.get_last_lr()
    return list(map(float, found))


@pytest.mark.parametrize(("warmup", "floor"), [(0, 0.0), (4, 0.0), (4, 0.1), (9, 0.1), (4, 1.0)])
def test_cosine_has_its_values_at_the_start_the_warm_up_s_end_and_the_end(warmup: int, floor: float) -> None:
    found = rates(warm_up_and_cosine(optimizer(2.0), warmup=warmup, floor=floor, total_steps=10), 10)
    assert found[0] == pytest.approx(2.0 / (warmup + 1))
    assert found[warmup] == pytest.approx(2.0)
    assert found[10] == pytest.approx(2.0 * floor)
    middle = (10 + warmup) / 2
    assert found[math.floor(middle)] + found[math.ceil(middle)] == pytest.approx(2.0 * (1 + floor))
    assert found == [*sorted(found[:warmup]), *sorted(found[warmup:], reverse=True)]


def test_cosine_stays_at_its_floor_after_the_end() -> None:
    found = rates(warm_up_and_cosine(optimizer(), warmup=1, floor=0.25, total_steps=4), 9)
    assert found[4:] == [0.25] * 6


@pytest.mark.parametrize("total_steps", [2, 5])
def test_a_warm_up_that_does_not_end_is_told(total_steps: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = rates(warm_up_and_cosine(optimizer(), warmup=5, floor=0.0, total_steps=total_steps), total_steps)
    assert max(found[:-1]) < 1.0
    (message,) = caplog.messages
    assert message == f"schedule.warmup=5: training has {total_steps} steps and never reaches optimizer.lr"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"warmup": -1}, "schedule.warmup must be a whole number of at least 0, not -1"),
        ({"floor": 1.5}, r"schedule.floor must lie in \[0, 1\], not 1.5"),
        ({"floor": -0.1}, r"schedule.floor must lie in \[0, 1\], not -0.1"),
    ],
)
def test_a_number_out_of_range_is_refused(setting: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        warm_up_and_cosine(optimizer(), **{"warmup": 1, "floor": 0.0, "total_steps": 4} | setting)


def own(optimizer: SGD, total_steps: int, power: float = 1.0) -> LRScheduler:
    """A schedule of somebody's own."""
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=total_steps, power=power)


one_cycle = partial(OneCycleLR, max_lr=1.0)
TOLD = {
    "null": (partial(one_cycle, total_steps=None), 7),
    "left out": (one_cycle, 7),
    "given": (partial(one_cycle, total_steps=5), 5),
    "by epochs": (partial(one_cycle, epochs=2, steps_per_epoch=3), 6),
    "a function of one's own": (partial(own, power=2.0), 7),
}


@pytest.mark.parametrize("name", TOLD)
def test_a_schedule_is_told_the_length_of_training_unless_it_has_one(name: str) -> None:
    make, expected = TOLD[name]
    schedule = make_schedule(make, optimizer(momentum=0.9), 7)
    assert expected in (getattr(schedule, "total_steps", 0), getattr(schedule, "total_iters", 0))


def test_a_schedule_that_takes_no_length_is_made_as_it_is() -> None:
    assert isinstance(make_schedule(partial(ConstantLR, factor=1.0), optimizer(), math.inf), ConstantLR)
    given = make_schedule(partial(one_cycle, total_steps=5), optimizer(momentum=0.9), -1)
    assert isinstance(given, OneCycleLR)


@pytest.mark.parametrize("total_steps", [math.inf, -1, 0])
@pytest.mark.parametrize("name", ["OneCycleLR", "warm_up_and_cosine"])
def test_a_length_without_end_is_refused(name: str, total_steps: float) -> None:
    make = {"OneCycleLR": one_cycle, "warm_up_and_cosine": partial(warm_up_and_cosine, warmup=1, floor=0.0)}[name]
    with pytest.raises(ValueError, match=rf"^schedule: {name} needs the length .*; set trainer\.max_steps"):
        make_schedule(make, optimizer(momentum=0.9), total_steps)


CHOICES = sorted(path.stem for path in (CONF / "schedule").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("optimizer_choice", sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml")))
def test_every_schedule_runs_to_its_end_with_every_optimizer(
    choice: str, optimizer_choice: str, config: Compose
) -> None:
    cfg = config(f"schedule={choice}", f"optimizer={optimizer_choice}", "model=mlp", "model.encoder.width=4")
    model = instantiate(cfg.model, _convert_="all")
    made = instantiate(cfg.optimizer, _convert_="all")(model.named_parameters())
    make = instantiate(cfg.schedule, _convert_="all")
    schedule = make_schedule(partial(make, warmup=3) if choice == "cosine" else make, made, 10)
    found = rates(schedule, 9)
    assert max(found) == pytest.approx(made.defaults["lr"])
    assert found[-1] < found[3] or choice == "constant"


ENDS = {
    "schedule=one_cycle": lambda state: state["total_steps"] == 4,
    "schedule=cosine schedule.warmup=2": lambda state: state["_last_lr"] == [0.0],
}


@pytest.mark.parametrize("choice", ENDS)
def test_a_run_follows_its_own_length(choice: str, config: Compose, tmp_path: Path) -> None:
    train_run(config(*choice.split(), "model=mlp", "model.encoder.width=8", "trainer.max_steps=4"))
    (schedule,) = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["lr_schedulers"]
    assert schedule["last_epoch"] == 4
    assert ENDS[choice](schedule)


class Length(Callback):
    """Keeps how many optimizer steps the task expects."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.expected = pl_module.total_steps


@pytest.mark.parametrize(("accumulate", "nsteps"), [(1, 14), (3, 6)])
def test_a_length_in_epochs_counts_optimizer_steps(accumulate: int, nsteps: int, config: Compose) -> None:
    watch = Length()
    length = ("trainer.max_steps=-1", "trainer.max_epochs=2", f"trainer.accumulate_grad_batches={accumulate}")
    ending = ("trainer.val_check_interval=1.0", "data.nimages=82", "model=mlp", "model.encoder.width=8")
    summary = train_run(config(*length, *ending, "data.batch_size=8"), [watch])
    assert watch.expected == summary["steps"] == nsteps


class Betas(Callback):
    """Keeps the KL weight at each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: object) -> None:
        beta = pl_module.objective.beta
        self.seen.append(round(beta(trainer.global_step), 6))


SMALL = ("model=mlp", "model.encoder.width=8")


@pytest.mark.parametrize(
    ("length", "share", "expected"),
    [
        (("trainer.max_steps=4",), "0.5", [0.0, 0.5, 1.0, 1.0]),
        (("trainer.max_steps=4",), "1.0", [0.0, 0.25, 0.5, 0.75]),
        (("trainer.max_steps=-1", "trainer.max_epochs=1", "data.batch_size=12"), "0.5", [0.0, 0.5, 1.0, 1.0]),
        (("trainer.max_steps=4",), "4", [0.0, 0.25, 0.5, 0.75]),
    ],
)
@pytest.mark.parametrize("task", ["vae", "vaegan"])
def test_a_kl_warm_up_takes_a_share_of_training(
    task: str, length: tuple[str, ...], share: str, expected: list[float], config: Compose
) -> None:
    adversary = ("task.adversaries.discriminator.network.widths=[4,4,4]", "data.image_size=16", "task.warmup=2")
    settings = ("objective=elbo_warmup", f"objective.beta.nsteps={share}", f"task={task}", *length)
    train_run(config(*SMALL, *settings, *(adversary if task == "vaegan" else ())), [watch := Betas()])
    assert watch.seen == expected


def test_a_share_of_an_endless_training_is_refused(config: Compose) -> None:
    endless = ("trainer.max_steps=-1", "trainer.max_time='00:00:01:00'")
    with pytest.raises(ValueError, match=r"objective.beta.nsteps=0.5 is a share of training, but the length"):
        train_run(config(*SMALL, "objective=elbo_warmup", "objective.beta.nsteps=0.5", *endless))


def test_a_kl_warm_up_by_share_is_not_extended(config: Compose, tmp_path: Path) -> None:
    settings = (*SMALL, "objective=elbo_warmup", "objective.beta.nsteps=0.5")
    train_run(config(*settings, folder="first"))
    with pytest.raises(ValueError, match=r"its KL weight was scheduled for trainer.max_steps=4, but another length"):
        train_run(config(*settings, "trainer.max_steps=6", f"resume={tmp_path / 'first'}", folder="second"))


def test_a_longer_cosine_is_refused_and_names_the_cause(config: Compose, tmp_path: Path) -> None:
    settings = ("schedule=cosine", "schedule.warmup=1", "model=mlp", "model.encoder.width=8")
    train_run(config(*settings, folder="first"))
    longer = (*settings, "trainer.max_steps=6", f"resume={tmp_path / 'first'}")
    with pytest.raises(
        ValueError, match=r"its learning rate was scheduled for trainer.max_steps=4, but another length"
    ):
        train_run(config(*longer, folder="second"))

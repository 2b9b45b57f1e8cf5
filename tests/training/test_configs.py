"""Every yaml of every group composes, is instantiated and trains."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

GROUPS = (
    "model",
    "likelihood",
    "prior",
    "objective",
    "optimizer",
    "schedule",
    "task",
    "trainer",
    "callbacks",
)  # of logger: tests/training/test_loggers.py
DEFAULTS = [entry for entry in yaml.safe_load((CONF / "train.yaml").read_text())["defaults"] if isinstance(entry, dict)]
"""What a run is made of where nothing is chosen: one run trains all of these files."""
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
CHOSEN = [choice for choice in CHOICES if dict([choice.split("=")]) not in DEFAULTS and choice != "callbacks=default"]
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
NEEDS = {
    "likelihood=bernoulli": ["data.binarize=dynamic"],
    "model=resnet_fast": ["data.image_size=32"],
    "task=cvaegan": ["model.nclasses=10", "data=digits"],
    "model=fastgan": ["data.image_size=32"],
    "callbacks=swa": ["trainer.max_epochs=2"],
}
ADDED = {f"callbacks={name}" for name in ("early_stopping", "ema", "lr_monitor", "swa")}
"""Callbacks to be chosen beside the default ones."""
SMALL = ["data.nimages=8", "data.batch_size=2", "callbacks.gallery.nimages=1"]
SMALLER = {
    "monet256_klae": [*SMALL, "model.encoder.widths=[8]", "++task.adversaries.discriminator.network.widths=[8,8,8]"],
}
"""Experiments for a GPU, of which a CPU tests narrower networks."""
TINY = ("trainer.max_steps=2", "data.batch_size=8", "trainer.val_check_interval=2")


STAGED = ("task=staged_vaegan", "callbacks=staged")
"""Choices that tests/training/test_staged.py trains."""
FILES = [pytest.param(one, marks=[pytest.mark.slow] if one in STAGED else []) for one in ("logger=wandb", *CHOSEN)]


@pytest.mark.parametrize("choice", FILES)  # the first with all defaults
def test_every_file_trains(choice: str, config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    added = f"callbacks=[default,{choice.partition('=')[2]}]" if choice in ADDED else choice
    assert train_run(config(added, *NEEDS.get(choice, []), *TINY))["steps"] == 2


@pytest.mark.parametrize("choice", NEEDS)
def test_what_a_file_needs_is_said_in_a_sentence(choice: str, config: Callable[..., DictConfig]) -> None:
    with pytest.raises((ValueError, InstantiationException), match=rf"choose .*{NEEDS[choice][0].partition('=')[0]}"):
        train_run(config(choice, *TINY))


def defaults_of(path: Path) -> list[str | dict[str, str]]:
    """The defaults list of an experiment file."""
    return yaml.safe_load(path.read_text()).get("defaults", [])


def included(path: Path) -> list[Path]:
    """The experiment files that an experiment file includes."""
    names = [entry for entry in defaults_of(path) if isinstance(entry, str) and entry != "_self_"]
    return [path.with_stem(name) for name in names]


def experiment_choices(path: Path) -> dict[str, str]:
    """The config groups that an experiment file and those that it includes choose."""
    entries = [entry for one in (*included(path), path) for entry in defaults_of(one) if isinstance(entry, dict)]
    return {key.removeprefix("override /"): value for entry in entries for key, value in entry.items()}


def is_long(path: Path) -> bool:
    """Whether an experiment trains in stages, as tests/training/test_staged.py does, or large images."""
    return experiment_choices(path).get("task") == "staged_vaegan" or path.stem in SMALLER


TRAINED = [pytest.param(path, marks=[pytest.mark.slow] if is_long(path) else []) for path in EXPERIMENTS]


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_every_experiment_trains_on_images_of_its_size(path: Path, config: Callable[..., DictConfig]) -> None:
    stored = config(f"experiment={path.stem}")
    size = (f"data.image_size={stored.data.image_size}", f"data.channels={stored.data.channels}")
    overrides = [f"{group}={name}" for group, name in experiment_choices(path).items() if group != "data"]
    numbers = [
        f"++{key}={value}"
        for one in (*included(path), path)
        for key, value in flat(yaml.safe_load(one.read_text()))
        if not key.startswith(("data.", "trainer.", "defaults"))
    ]
    needs = [need for choice in overrides for need in NEEDS.get(choice, [])]
    needs += SMALLER.get(path.stem, [])
    assert train_run(config(*overrides, *numbers, *size, *TINY, *needs, "trainer.precision=32-true"))["steps"] == 2


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_opens_with_its_command_and_what_it_gives(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_"
    assert any(f"python -m vae_lab.train experiment={path.stem}" in line for line in head)
    assert any("nats" in line for line in head)
    assert any(unit in line for line in head for unit in (" s ", " s,", " s.", " min"))


def flat(config: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Dotted keys and values."""
    pairs: list[tuple[str, object]] = []
    for key, value in config.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return pairs

"""The tests that people know from lightning-hydra-template: fast_dev_run of every choice, and every experiment.

Its others are elsewhere: training and then evaluating from the checkpoint in test_commands.py and test_evaluate.py,
resuming in test_resume.py, sweeps in test_sweeps.py, Optuna in test_tuning.py.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from invoking import invoke
from omegaconf import DictConfig

from vae_lab import generate
from vae_lab import train as command
from vae_lab.errors import DataError
from vae_lab.runs.load import load_model
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]
FAST = ("trainer.fast_dev_run=true", "~callbacks.gallery", "~callbacks.latents")
SMALL = ("data=synthetic", "data.image_size=8", "data.batch_size=12", "model=mlp", "model.encoder.width=8")
RUN = (*SMALL, "trainer.max_steps=2", "trainer.precision=32-true", "logger=none", "~callbacks.gallery")
MODELS = sorted((CONF / "model").glob("*.yaml"))
DATA = sorted((CONF / "data").glob("*.yaml"))
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
HERE = {"digits", "synthetic"}
"""Images that come with a package, or with none."""
ROOTS = {"mnist": "MNIST", "mnist_binary": "MNIST", "fashion_mnist": "FashionMNIST", "monet": "monet"}
"""Where the others lie."""


def stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", MODELS, ids=stem)
def test_fast_dev_run_of_every_model(path: Path, config: Compose, tmp_path: Path) -> None:
    size = ["data.image_size=32"] if path.stem in {"resnet_fast", "fastgan"} else []
    summary = train_run(config(f"model={path.stem}", "data.batch_size=4", *FAST, *size))
    assert (summary["status"], summary["steps"]) == ("fast_dev_run", 1)
    assert not list(tmp_path.rglob("*.ckpt"))


def pictures(folder: Path) -> Path:
    """A folder of small pictures."""
    from PIL import Image

    folder.mkdir()
    for i in range(40):
        Image.new("L", (16, 16), 6 * i).save(folder / f"{i}.png")
    return folder


def few(root: Path, folder: Path) -> Path:
    """A folder with the first of many pictures."""
    folder.mkdir()
    for path in sorted(root.glob("*.jpg"))[:20]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("path", DATA, ids=stem)
def test_fast_dev_run_of_every_data_set(
    path: Path, config: Compose, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAE_LAB_CACHE", str(tmp_path / "cache"))
    settings = [f"data={path.stem}", "data.batch_size=4", "model=mlp", "model.encoder.width=8"]
    if path.stem == "folder":
        settings += [f"data.root={pictures(tmp_path / 'pictures')}", "data.image_size=16", "data.channels=1"]
    elif path.stem not in HERE:
        shared = request.getfixturevalue("shared")  # skips by name without them
        root = shared / ROOTS[path.stem]
        settings.append(f"data.root={few(root, tmp_path / 'few') if path.stem == 'monet' else root}")
    summary = train_run(config(*settings, *FAST))
    assert (summary["status"], summary["steps"]) == ("fast_dev_run", 1)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=stem)
def test_every_experiment_instantiates(path: Path) -> None:
    """Its data and its task, at their own sizes, on no device and without reading an image."""
    import torch

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"experiment={path.stem}", "folder=nowhere"])
    with torch.device("meta"):
        task = instantiate(cfg.task, _convert_="all")
    data = instantiate(cfg.data, _convert_="all")
    assert (task.model.image_size, task.model.channels) == (data.image_size, data.channels)


def test_fast_dev_run_in_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("-m", *RUN, "trainer.fast_dev_run=true", "seed=0,1")
    assert invoke(command.main, "train", *arguments, monkeypatch=monkeypatch) == 0
    found = [json.loads(path.read_text())["status"] for path in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert found == ["fast_dev_run"] * 2


@pytest.mark.parametrize("kept", ["trainer.fast_dev_run=true", "trainer.enable_checkpointing=false"])
def test_other_commands_say_that_a_run_kept_nothing(  # noqa: PLR0917
    kept: str,
    config: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    train_run(config(*RUN, kept))
    said = "the run used trainer.fast_dev_run" if "fast" in kept else "the run kept none"
    with pytest.raises(DataError, match=said):
        load_model(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert invoke(generate.main, "generate", "run=run", monkeypatch=monkeypatch) == 3
    assert said in "".join(capfd.readouterr())
    assert invoke(command.main, "train", *RUN, "resume=run", monkeypatch=monkeypatch) == 3
    assert said in "".join([*capfd.readouterr(), caplog.text])

"""What the tests share."""

import fcntl
import gc
import importlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# one thread for each of two workers and for what they start, before torch and NumPy are imported
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["WANDB_SILENT"] = "true"

import pytest
import type_checks  # noqa: F401 (it changes how vae_lab is imported)
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from vae_lab.system.config_dir import CONF

SHARED = Path(__file__).parents[2] / "shared" / "data"
TINY = [
    "data=synthetic",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "trainer.precision=32-true",
]


HEAVY = ("lightning", "matplotlib.figure", "optuna", "plotly.graph_objects", "scipy.stats", "sklearn.datasets", "wandb")


def pytest_configure(config: pytest.Config) -> None:
    """Import the large packages in every process that runs tests.

    Those that are first imported by a module of ours under jaxtyping's hook are compiled from source, all 2600 files,
    because the hook gives compiled files another name.
    """
    if config.getoption("numprocesses") and not hasattr(config, "workerinput"):
        return
    listen_to_signals()
    os.fsync = lambda *_: None  # a run waits twenty times for the disk, and no test is of a power cut
    gc.disable()
    for name in HEAVY:
        importlib.import_module(name)
    import compose_once  # noqa: F401 (it changes how Hydra composes)
    import torch
    import yaml

    torch.set_num_threads(1)
    yaml.SafeLoader = yaml.CSafeLoader  # the same parser in C; every command reads forty files


def listen_to_signals() -> None:
    """Take back that `nohup` and a shell's background ignore signals, which runs then ignore as well."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_finish() -> None:
    """Leave the half a million objects of imports out of all garbage collections, which would look at each again."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def shared() -> Path:
    """The real data sets, where they are."""
    if not (SHARED / "MNIST").is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return SHARED


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """A function that composes the training config of a run of 4 steps on 64 images, in a folder of its own.

    It has no pictures, a third of the time of such a run, unless its settings name them or their group.
    """

    def make(*overrides: str, folder: str = "run") -> DictConfig:
        named = " ".join(overrides)
        unseen = [f"~callbacks.{name}" for name in ("gallery", "latents") if name not in named]
        fixed = [*TINY, "logger=none", *([] if "callbacks=" in named else unseen), f"folder={tmp_path / folder}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [*fixed, *overrides])

    return make


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that returns a folder of this name, which one worker has made for all; who changes it copies it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        with (root / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / f"{name}.made").exists():
                shutil.rmtree(root / name, ignore_errors=True)  # of an attempt that failed
                make(root / name / "run")
                (root / f"{name}.made").touch()
        return root / name / "run"

    return folder_of


@pytest.fixture(scope="session")
def trained(made_once: Callable[..., Path]) -> tuple[Path, dict[str, Any]]:
    """A run of 4 steps with W&B offline: its folder and its summary."""

    def make(folder: Path) -> None:
        from vae_lab.training.run import train_run

        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*TINY, "logger=wandb", "group=tests", f"folder={folder}"]))

    folder = made_once("trained", make)
    return folder, json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def blobs_run(made_once: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for each module of one run of 100 steps on 400 images of blobs."""
    from detecting import trained_run

    return shutil.copytree(made_once("blobs", trained_run), tmp_path_factory.mktemp("blobs") / "run")

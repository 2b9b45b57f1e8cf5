"""What the tests share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# one thread for each of two workers and for what they start, before torch and NumPy are imported
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["WANDB_SILENT"] = "true"

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from vae_lab.conf_folder import CONF

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared" / "data"
TINY = ["data=synthetic", "trainer.max_steps=4", "trainer.val_every=2", "task.log_every=1", "trainer.precision=32-true"]


@pytest.fixture
def shared() -> Path:
    """The real data sets, where they are."""
    if not (SHARED / "MNIST").is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return SHARED


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """A function that composes the training config of a run of 4 steps on 64 images, in a folder of its own."""

    def make(*overrides: str, folder: str = "run") -> DictConfig:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", [*TINY, "logger=none", f"folder={tmp_path / folder}", *overrides])

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of 4 steps with W&B offline: its folder and its summary."""
    from vae_lab.training import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, "logger=wandb", "group=tests", f"folder={folder}"])
    return folder, train(cfg)

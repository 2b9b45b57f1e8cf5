"""A small run, pictures to be judged by it, and how."""

import csv
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from vae_lab.detection.calibration import Calibration, score_config
from vae_lab.detection.journal import Row
from vae_lab.detection.score_folder import score_folder
from vae_lab.runs.load import load_data
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

HOW = Calibration(ncalibration=40, nfit=60)
QUICK: dict[str, Any] = {"checkpoint": "best", "root": None, "ncalibration": 40, "nfit": 60}
SETTINGS: dict[str, Any] = QUICK | {"truth": None, "alpha": 0.1, "nshown": 12, "nreplicates": 50}

OVERRIDES = [
    "data=synthetic", "data.nimages=400", "model=mlp", "model.encoder.width=32", "model.nlatent=4",
    "trainer.max_steps=100", "trainer.val_check_interval=100", "trainer.precision=32-true", "logger=none",
    "optimizer.lr=3e-3",
    "likelihood=sigma_vae",  # mse has no scale for complexity
]  # fmt: skip


def trained_run(folder: Path, *overrides: str) -> Path:
    """A run of 100 steps on 400 images of blobs, or as the overrides say."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train_run(compose("train", [*OVERRIDES, *overrides, f"folder={folder}"]))
    return folder


def save_pictures(run: Path, root: Path) -> Path:
    """Twenty normal images and eight of noise as PNGs, each kind in a folder of its own."""
    for name in ("normal", "strange"):
        (root / name).mkdir(parents=True)
    for i, pixels in enumerate(load_data(run).splits.test.pixels(slice(20))):
        Image.fromarray(pixels[0].numpy()).save(root / "normal" / f"{i:02}.png")
    generator = torch.Generator().manual_seed(0)
    for i in range(8):
        noise = torch.randint(0, 256, (16, 16), generator=generator).to(torch.uint8)
        Image.fromarray(noise.numpy()).save(root / "strange" / f"{i}.png")
    return root


def small(score: str | dict[str, Any]) -> dict[str, Any]:
    """A score, or the scores of a config, that take no time."""
    config = score_config(score) if isinstance(score, str) else score
    if "_target_" not in config:
        return {name: small(one) for name, one in config.items()}
    quick = {"npatches": 60, "nsteps": 3, "npairs": 2, "ncomponents": 2, "nquantiles": 60, "nsamples": 3}
    return config | {key: value for key, value in quick.items() if key in config}


def judge(run: Path, images: Path | list[str], out: Path | str, change: dict[str, Any] | None = None) -> list[Row]:
    """Files judged by negative ELBO, or as `change` says."""
    named = images if isinstance(images, list) else str(images)
    settings = SETTINGS | {"run": str(run), "images": named, "out": str(out), "score": small("neg_elbo")}
    return score_folder(**settings | (change or {}))


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))

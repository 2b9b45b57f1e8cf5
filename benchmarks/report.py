"""Seconds of `python -m vae_lab.report` for 100 run folders, each with a config, 600 logged rows and two pictures.

python -m benchmarks.report [nruns=100]
"""

import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from vae_lab.system.config_dir import CONF

LATENTS = (2, 4, 8, 16, 32)
RATES = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
NROWS = 600
SIDE = 242


def write_run(folder: Path, seed: int, nlatent: int, lr: float) -> None:
    """Write what a training of 30,000 batches leaves, but for the checkpoints."""
    draw = random.Random(f"{seed} {nlatent} {lr}")  # noqa: S311
    rate = 3 * nlatent**0.5 + draw.gauss(0, 0.1)
    distortion = 60 + 80 / nlatent + 1000 * lr + draw.gauss(0, 0.5)
    overrides = [f"model.nlatent={nlatent}", f"optimizer.lr={lr}", f"seed={seed}"]
    (folder / ".hydra").mkdir(parents=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "logger=none"])
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    summary = {
        "status": "completed", "seed": seed, "seconds": {"total": 600.0}, "images_per_second": 6000.0,
        "test/rate": rate, "test/distortion": distortion, "test/neg_elbo": rate + distortion,
        "val/neg_elbo": rate + distortion + draw.gauss(0, 0.5),
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train/loss", "train/distortion", "train/rate", "train/lr", "val/neg_elbo"])
        for step in range(50, 50 * NROWS + 1, 50):
            loss = distortion + rate + 5000 / step + draw.gauss(0, 2)
            writer.writerow([step, loss, loss - rate, rate, lr, "" if step % 1000 else loss])
    (folder / "figures").mkdir()
    pixels = np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
    for name in ("samples", "reconstructions"):
        Image.fromarray(pixels).save(folder / "figures" / f"{name}.png")


def main() -> None:
    """Print the seconds of the whole command, its start included, and the size of the page."""
    nruns = int(dict(argument.split("=") for argument in sys.argv[1:]).get("nruns", 100))
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place) / "runs"
        for i in range(nruns):
            cell, seed = divmod(i, 4)
            write_run(runs / str(i), seed, LATENTS[cell % 5], RATES[cell // 5 % 5])
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "vae_lab.report", f"runs={runs}"], check=True)  # noqa: S603
        seconds = time.perf_counter() - start
        size = (runs / "report.html").stat().st_size
    print(f"{nruns} runs: {seconds:.1f} s, a page of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

"""One-class MNIST: each digit in turn is normal, the other nine of the test set are anomalies.

    python -m benchmarks.one_class data_root=data                          all ten, trained one after the other
    python -m benchmarks.one_class data_root=data digits=8,2 folder=<where runs lie>  model.nlatent=8

Trains experiment=one_class_mnist on the digit's own training images, and prints the AUROC of every score over its test
images against all those of the other digits, with 95 % intervals, and the mean over digits. Other arguments go to the
training; runs that are there already are not trained again.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torchvision.datasets import MNIST

from vae_lab.detection.calibration import Calibration, load_detector, score_config
from vae_lab.detection.detector import CombinedDetector
from vae_lab.detection.metrics import detection
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

SCORES = ("complexity", "latent_path", "neg_elbo", "reconstruction_error", "latent_copula", "rate")
OWN = ("data_root", "digits", "folder", "scores")


def run_of(digit: int, folder: Path, root: str, overrides: list[str]) -> Path:
    """Return the folder of the run that was trained on one digit, trained now if it is not there."""
    run = folder / str(digit)
    if not (run / "summary.json").is_file():
        fixed = ["experiment=one_class_mnist", f"data.only=[{digit}]", f"data.root={root}", "logger=none"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*fixed, *overrides, f"folder={run}"]))
    return run


def main() -> None:
    """Print a row for each digit and score."""
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    settings = {"data_root": "data", "digits": "0,1,2,3,4,5,6,7,8,9", "scores": ",".join(SCORES), "folder": ""}
    settings |= {key: value for key, value in arguments.items() if key in OWN}
    overrides = [f"{key}={value}" for key, value in arguments.items() if key not in OWN]
    folder = Path(settings["folder"] or tempfile.mkdtemp(prefix="one-class-"))
    started = time.perf_counter()
    test = MNIST(settings["data_root"], train=False)
    areas: dict[str, list[float]] = {}
    for digit in map(int, settings["digits"].split(",")):
        run = run_of(digit, folder, settings["data_root"], overrides)
        scores = {name: score_config(name) for name in settings["scores"].split(",")}
        panel = load_detector(run, scores, Calibration(root=settings["data_root"]))
        assert isinstance(panel, CombinedDetector)
        described = panel.describe(test.data[:, None])
        normal = test.targets == digit
        for name in ("score", *panel.members):
            found = detection(described[name][normal], described[name][~normal], nreplicates=200, seed=0).auroc
            title = "combined" if name == "score" else name
            areas.setdefault(title, []).append(found.value)
            print(f"{digit} {title:22} {found.value:.4f} ({found.low:.4f} to {found.high:.4f})", flush=True)
    for name, values in areas.items():
        print(f"mean of {len(values)} {name:22} {sum(values) / len(values):.4f}")
    print(f"{time.perf_counter() - started:.0f} s, runs in {folder}")


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    main()

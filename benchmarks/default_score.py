"""Which score finds anomalies best: the table from which the default of `detect` was chosen.

    python -m benchmarks.default_score folder=<where runs lie> data_root=<folder of MNIST, FashionMNIST, monet, …>
    python -m benchmarks.default_score ... problems=monet scores=features,neg_elbo n=100

Trains the runs of `PROBLEMS` that are not there, on one thread, and prints a row for each score and problem: the AUROC
of test images against each kind of anomaly with its 95 % interval, the share of normal images flagged at 0.05, and the
processor time of an image. With several runs, one for each digit, these are means. n: images of each kind, at most.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir

from benchmarks.anomalies import strange_images
from vae_lab.detection.calibration import Calibration, load_detector, score_config
from vae_lab.detection.detector import Detector, Pixels
from vae_lab.detection.metrics import detection
from vae_lab.intervals import Interval
from vae_lab.runs.load import load_data
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run


class Problem(NamedTuple):
    """How to train on normal images, and what is anomalous.

    Attributes:
        train: settings of the training; "{root}" stands for the folder of the data.
        each_digit: whether one run is trained for each digit, whose anomalies are the other nine.
        anomalies: names for `strange_images`.
    """

    train: tuple[str, ...]
    each_digit: bool = False
    anomalies: tuple[str, ...] = ()


PAINTERS = tuple(f"{{root}}/not_monet:{name}" for name in ("photo", "sisley", "pissarro"))
ONE_DIGIT = ("experiment=one_class_mnist", "trainer.max_steps=1000", "trainer.val_check_interval=1000")
PROBLEMS = {
    "digits": Problem((*ONE_DIGIT, "data=digits"), each_digit=True),
    "mnist": Problem(("data=mnist", "data.root={root}"), anomalies=("fashion", "mirrored")),
    "monet": Problem(
        ("data=folder", "data.root={root}/monet", "data.image_size=64", "model.nlatent=32"), anomalies=PAINTERS
    ),
    "monet_sigma": Problem(
        ("experiment=wss18_monet", "likelihood=sigma_vae", "model.nlatent=32", "optimizer.lr=1e-3",
         "data.root={root}/monet"), anomalies=PAINTERS,
    ),
    "one_digit": Problem(("experiment=one_class_mnist", "data.root={root}"), each_digit=True),
}  # fmt: skip


class Trial(NamedTuple):
    """A run, its normal test images, and anomalies by kind."""

    run: Path
    normal: Pixels
    strange: dict[str, Pixels]


def trained(folder: Path, settings: list[str]) -> Path:
    """Return the run in `folder`, trained now if it is not there."""
    if not (folder / "summary.json").is_file():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*settings, "logger=none", f"folder={folder}"]))
    return folder


def trials(name: str, folder: Path, root: str, n: int) -> Iterator[Trial]:
    """Yield the trials of a problem."""
    problem = PROBLEMS[name]
    settings = [setting.format(root=root) for setting in problem.train]
    if problem.each_digit:
        runs = [trained(folder / f"{name}{digit}", [*settings, f"data.only=[{digit}]"]) for digit in range(10)]
        parts = [load_data(run).raw_splits.test.pixels(slice(n)) for run in runs]
        for run, normal in zip(runs, parts, strict=True):
            others = [part[: n // 9 + 1] for part in parts if part is not normal]
            yield Trial(run, normal, {"others": torch.cat(others)})
    else:
        run = trained(folder / name, settings)
        normal = load_data(run).raw_splits.test.pixels(slice(n))
        names = [one.format(root=root) for one in problem.anomalies]
        yield Trial(run, normal, {one.rpartition(":")[2]: strange_images(one, root, normal, run)[:n] for one in names})


def measure(detector: Detector, trial: Trial) -> dict[str, Interval]:
    """Return the AUROC of each kind of anomaly, the rate of false alarms, and milliseconds of an image."""
    start = time.process_time()
    normal = detector.scores(trial.normal)
    found = {
        kind: detection(normal, detector.scores(pixels), nreplicates=1000, seed=0).auroc
        for kind, pixels in trial.strange.items()
    }
    nimages = len(normal) + sum(map(len, trial.strange.values()))
    cost = 1000 * (time.process_time() - start) / nimages
    alarms = detector.judge({"score": normal}, max(0.05, 1 / len(detector.calibration))).flagged.double().mean().item()
    return found | {"false alarms": Interval(alarms, alarms, alarms), "ms": Interval(cost, cost, cost)}


def mean(intervals: list[Interval]) -> Interval:
    """Return the mean of independent estimates, with the interval that their widths give."""
    value = sum(one.value for one in intervals) / len(intervals)
    half = sum((one.high - one.low) ** 2 for one in intervals) ** 0.5 / 2 / len(intervals)
    return intervals[0] if len(intervals) == 1 else Interval(value, value - half, value + half)


def main() -> None:
    """Print a row for each problem and score."""
    settings = {"data_root": "data", "folder": "outputs/default_score", "n": "1000", "scores": "", "nfit": "5000"}
    settings |= {"problems": ",".join(PROBLEMS), "ncalibration": "1000"}
    settings |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    how = Calibration(ncalibration=int(settings["ncalibration"]), nfit=int(settings["nfit"]))
    singles = [name for name in score_config("all") if name not in {"waic", "ensemble_mean", "ladder_llr"}]
    for problem in settings["problems"].split(","):
        every = list(trials(problem, Path(settings["folder"]), settings["data_root"], int(settings["n"])))
        for name in settings["scores"].split(",") if settings["scores"] else singles:
            try:
                found = [measure(load_detector(trial.run, score_config(name), how), trial) for trial in every]
            except ValueError as error:
                print(f"{problem:12} {name:22} does not fit: {error}", flush=True)
                continue
            row = {kind: mean([one[kind] for one in found]) for kind in found[0]}
            cells = [f"{kind} {one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for kind, one in row.items()]
            print(f"{problem:12} {name:22} {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""How well the scores tell anomalous images from a run's own test images.

    python -m benchmarks.anomalies run=outputs/<date>/<time> anomalies=fashion,mirrored data_root=data
    python -m benchmarks.anomalies run=outputs/<date>/<time> anomalies=<folder>,<folder>

anomalies: fashion, mnist (test images of that set in data_root), mirrored (the run's own test images), or folders. n:
test images of each, at most. scores: all that fit, or some. Intervals are over images.
"""

import sys
from pathlib import Path

import torch
from torchvision.datasets import MNIST, FashionMNIST

from vae_lab.data.files.cache import decode_files
from vae_lab.data.files.places import find
from vae_lab.data.pictures import file_rules
from vae_lab.detection.calibration import Calibration, load_detector, score_config
from vae_lab.detection.detector import CombinedDetector, Pixels
from vae_lab.detection.metrics import detection
from vae_lab.runs.load import load_data, load_model

SETS = {"mnist": MNIST, "fashion": FashionMNIST}


def strange_images(name: str, root: str, normal: Pixels, run: Path) -> Pixels:
    """Return the images called `name`: a set's test part, the normal ones mirrored, or those of a folder's glob."""
    if name == "mirrored":
        return normal.flip(-1)
    if name in SETS:
        return SETS[name](root, train=False).data[:, None]
    folder, _, prefix = name.partition(":")
    place = find(Path(folder))
    files = [file for file in place.files if Path(file.path).name.startswith(prefix)]
    return decode_files(place.root, files, file_rules(load_model(run)), lambda _: None).pixels


def main() -> None:
    """Print one row for each score."""
    settings = {"data_root": "data", "root": "", "scores": "all", "n": "1000", "anomalies": "fashion,mirrored"}
    settings |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    run, n = Path(settings["run"]), int(settings["n"])
    root = settings["root"] or None
    normal = load_data(run, root=root).raw_splits.test.pixels(slice(n))
    strange = {
        name: strange_images(name, settings["data_root"], normal, run)[:n] for name in settings["anomalies"].split(",")
    }
    print(f"{len(normal)} normal images; " + ", ".join(f"{len(pixels)} {name}" for name, pixels in strange.items()))
    everything = score_config("all")
    chosen = (
        everything if settings["scores"] == "all" else {key: everything[key] for key in settings["scores"].split(",")}
    )
    panel = load_detector(run, chosen, Calibration(root=root))
    assert isinstance(panel, CombinedDetector)
    described = {title: panel.describe(pixels) for title, pixels in ({"": normal} | strange).items()}
    usual = described.pop("")
    for name in ("score", *panel.members):
        judge = panel.members.get(name, panel)
        alarms = judge.judge({"score": usual[name]}, 0.05).flagged.double().mean().item()
        row = f"{'combined' if name == 'score' else name:22} false alarms {alarms:.3f}"
        for title, columns in described.items():
            found = detection(usual[name], columns[name], nreplicates=1000, seed=0).auroc
            row += f", {Path(title).name} {found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
        print(row, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    main()

"""How well the scores tell MNIST from Fashion-MNIST and from mirrored digits, for a run trained on MNIST.

    python -m benchmarks.anomalies run=outputs/<date>/<time> data_root=data scores=latent_path,neg_elbo n=1000

Test images of both sets, the first n of each; intervals are over images.
"""

import sys
import time
from pathlib import Path

from torchvision.datasets import MNIST, FashionMNIST

from vae_lab.detection import load_detector, score_config
from vae_lab.evaluation.detection import detection


def main() -> None:
    """Print one row for each score."""
    settings = {"data_root": "data", "scores": "latent_path,reconstruction_error,neg_elbo,complexity", "n": "1000"}
    settings |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    n, root = int(settings["n"]), settings["data_root"]
    digits, clothes = (kind(root, train=False).data[:n, None] for kind in (MNIST, FashionMNIST))
    strange = {"Fashion-MNIST": clothes, "mirrored": digits.flip(-1)}
    for name in settings["scores"].split(","):
        detector = load_detector(
            Path(settings["run"]), score_config(name), checkpoint="best", root=root, ncalibration=1000, nfit=3000
        )
        start = time.perf_counter()
        normal = detector.scores(digits)
        speed = n / (time.perf_counter() - start)
        alarms = detector.judge(normal, 0.05).flagged.double().mean().item()
        row = f"{name:22} {speed:6.0f} images/s, false alarms {alarms:.3f}"
        for title, pixels in strange.items():
            found = detection(normal, detector.scores(pixels), nreplicates=200, seed=0).auroc
            row += f", {title} {found.value:.4f} ({found.low:.4f} to {found.high:.4f})"
        print(row)


if __name__ == "__main__":
    main()

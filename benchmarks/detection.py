"""Images scored per second by a bound, and likelihood regret of a batch against one image at a time.

    make bench                             runs this after the other two
    python -m benchmarks.detection --nsteps 20

At 28x28, with the network of 2018 (model=conv) and the fully connected one. The regret of a batch and that of one image
take the same steps with the same settings; they take turns, and the ratio is that of the medians. The loop that the
score's authors published fits a copy of the encoder's weights to each image, one at a time; it is measured too.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from vae_lab.detection.calibration import score_config
from vae_lab.detection.detector import BATCH
from vae_lab.detection.scores.anomaly import Images, Score
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import elbo_terms
from vae_lab.runs.provenance import processor_name
from vae_lab.system.config_dir import CONF


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def scored(score: Score, model: LatentModel, images: Images) -> None:
    """Score images as `detect` does."""
    for part in images.split(BATCH):
        score(model, part)


def fit_encoder(model: LatentModel, image: Images, nsteps: int) -> None:
    """Fit a copy of the encoder to one image, as Xiao et al. 2020 do."""
    own = copy.deepcopy(model)
    optimizer = torch.optim.Adam(own.encoder.parameters(), lr=1e-4)
    for _ in range(nsteps):
        optimizer.zero_grad()
        elbo_terms(own(image), image).loss.sum().backward(inputs=list(own.encoder.parameters()))
        optimizer.step()


def untrained(*overrides: str) -> LatentModel:
    """Return a model of MNIST's size with the weights it starts with: what it costs does not depend on them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, "folder=unused"])
    return instantiate(cfg.model, _convert_="all").to(memory_format=torch.channels_last).eval()


def main() -> None:
    """Print a row for each score and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nsteps", type=int, default=score_config("likelihood_regret")["nsteps"])
    parser.add_argument("--turns", type=int, default=5)
    settings = parser.parse_args()
    print(f"{processor_name()}, {torch.get_num_threads()} threads")
    images = torch.rand(4 * BATCH, 1, 28, 28).to(memory_format=torch.channels_last)
    regret: Score = instantiate(score_config("likelihood_regret") | {"nsteps": settings.nsteps})
    for choice in ("model=conv", "model=mlp"):
        model = untrained(choice)
        for name, more in (("reconstruction_error", {}), ("neg_elbo", {"nsamples": 1}), ("neg_elbo", {})):
            score: Score = instantiate(score_config(name) | more)
            call = partial(scored, score, model, images)
            took = [seconds(call) for _ in range(settings.turns)]
            title = f"{name}{', one latent' if more else ''}"
            print(f"{choice:10} {title:22} {len(images) / statistics.median(took[1:]):6.0f} images/s")
        work = {
            "a batch": partial(regret, model, images[:BATCH]),
            "one image": partial(regret, model, images[:1]),
            "one image, its encoder": partial(fit_encoder, model, images[:1], settings.nsteps),
        }
        turns = [{name: seconds(call) for name, call in work.items()} for _ in range(settings.turns)]
        each = {name: statistics.median(turn[name] for turn in turns[1:]) for name in work}
        each["a batch"] /= BATCH
        for name, time_each in each.items():
            ratio = time_each / each["a batch"]
            print(f"{choice:10} regret of {name:22} {1e3 * time_each:7.2f} ms an image, {ratio:5.1f} times a batch's")


if __name__ == "__main__":
    main()

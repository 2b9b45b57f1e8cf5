"""Seconds per decoded latent in the likelihood's estimate, against a loop that only draws, decodes and sums.

    make bench                             runs this after benchmarks/step.py
    python -m benchmarks.likelihood --nsamples 1000

The estimate also computes p(z), q(z | x), running log-sums and effective sample sizes; the loop does what no estimate
can do without. They take turns, and the ratio is that of the medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.scores import importance_estimate
from vae_lab.runs.provenance import processor_name
from vae_lab.system.config_dir import CONF

CASES = {
    "conv, mse": [],
    "mlp, bernoulli": ["model=mlp", "likelihood=bernoulli"],
    "mlp, bernoulli, VampPrior": ["model=mlp", "likelihood=bernoulli", "prior=vamp"],
    "ladder_mlp, bernoulli": ["model=ladder_mlp", "likelihood=bernoulli"],
}


@torch.no_grad()
def bare(model: LatentModel, images: torch.Tensor, nsamples: int, chunk: int) -> None:
    """Draw, decode and sum, `chunk` latents at a time."""
    for image in images.split(1):
        posterior = model.posterior(image)
        total = torch.tensor(-torch.inf)
        for start in range(0, nsamples, chunk):
            n = min(chunk, nsamples - start)
            generative = model.infer(posterior, (n,)).generative
            total = torch.logaddexp(total, generative.log_prob(image.expand(n, -1, -1, -1)).logsumexp(0))


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print one row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nsamples", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=7)
    settings = parser.parse_args()
    print(f"{processor_name()}, {torch.get_num_threads()} threads, {settings.nsamples} samples for each of 4 images")
    for title, overrides in CASES.items():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [*overrides, "folder=unused"])
        model: LatentModel = instantiate(cfg.model, _convert_="all").eval()
        images = torch.rand(4, 1, 28, 28).round()
        ours, theirs = [], []
        for turn in range(settings.turns + 1):
            both = (
                seconds(lambda m=model, x=images: importance_estimate(m, x, settings.nsamples, settings.chunk)),
                seconds(lambda m=model, x=images: bare(m, x, settings.nsamples, settings.chunk)),
            )
            if turn:  # the first one warms up
                ours.append(both[0])
                theirs.append(both[1])
        estimate, loop = statistics.median(ours), statistics.median(theirs)
        speed = 4 * settings.nsamples / estimate
        print(f"{title:28} ratio {estimate / loop:.3f}   {speed:9.0f} latents/s   {1e6 / speed:.0f} us each")


if __name__ == "__main__":
    main()

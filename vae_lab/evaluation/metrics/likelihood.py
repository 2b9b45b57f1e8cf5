"""The log-likelihood of a set of images, with its standard error."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.intervals import Mean
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import elbo_terms
from vae_lab.probability.scores import importance_estimate
from vae_lab.runs.inference import placed
from vae_lab.system.randomness import seeded

Track = Callable[[Sequence[Tensor], str], Iterable[Tensor]]
"""Iterates over batches of row numbers and shows progress."""


class SetLikelihood(NamedTuple):
    """Estimates of the likelihood of a set of images, in nats per image.

    Attributes:
        iwae_nll: mean of the importance-sampling estimate of -log p(x).
        neg_elbo: mean negative ELBO.
        distortion: mean distortion.
        rate: mean rate.
        rows: indices of the images estimated with all samples.
        nll: estimates of these images.
        effective: effective sample sizes of these images.
    """

    iwae_nll: Mean
    neg_elbo: Mean
    distortion: Mean
    rate: Mean
    rows: Int64[Tensor, " m"]
    nll: Float[Tensor, " m"]
    effective: Float[Tensor, " m"]


@torch.no_grad()
def set_likelihood(
    model: LatentModel,
    images: ImageSet,
    *,
    nsamples: int,
    nbound: int,
    nimages: int,
    chunk: int,
    seed: int,
    track: Track,
) -> SetLikelihood:
    """Return the mean IWAE estimate of -log p(x) with `nsamples` latents per image, and the mean negative ELBO.

    A conditional model gives -log p(x | y), where y is the image's label, and the ELBO of p(x | y).

    If `nimages` is less than the size of the set, `difference_mean` extends the estimate to all images with a cheap
    bound computed for each of them.

    Args:
        model: the model, in evaluation mode.
        images: the set, as the model receives it.
        nsamples: latents per image for the estimate; 5,000 in the published protocol.
        nbound: latents per image for the cheap bound.
        nimages: number of images, drawn at random, that get the estimate.
        chunk: latents decoded at once.
        seed: seed of the draws.
        track: shows progress.
    """
    require_count("nsamples", nsamples)
    require_count("nbound", nbound)
    require_count("nll_images", nimages)
    require_count("chunk", chunk)
    everything = torch.arange(len(images))
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:nimages].sort().values
    neg_elbo, distortion, rate = elbo_pass(model, images, min(chunk, 500), seed, track)
    estimate = partial(estimate_pass, model, images, chunk=chunk, seed=seed, track=track)
    nll, effective = estimate(rows, nsamples)
    if len(rows) == len(images):
        iwae_nll = plain_mean(nll)
    else:
        bound, _ = estimate(everything, nbound)
        iwae_nll = difference_mean(bound, nll, rows)
    means = [plain_mean(values) for values in (neg_elbo, distortion, rate)]
    return SetLikelihood(iwae_nll, *means, rows=rows, nll=nll.float(), effective=effective.float())


def elbo_pass(model: LatentModel, images: ImageSet, batch: int, seed: int, track: Track) -> Float64[Tensor, "3 n"]:
    """Return the negative ELBO, distortion and rate of each image, estimated with one latent per image."""
    terms = []
    for i, part in enumerate(track(torch.arange(len(images)).split(batch), "ELBO")):
        with seeded("evaluate", "elbo", seed, i), evaluating(model):
            given, image = placed(model, images, part)
            terms.append(torch.stack(elbo_terms(given(image), image)))
    return torch.cat(terms, 1).double().cpu()


def estimate_pass(
    model: LatentModel,
    images: ImageSet,
    rows: Int64[Tensor, " m"],
    nsamples: int,
    *,
    chunk: int,
    seed: int,
    track: Track,
) -> Float64[Tensor, "2 m"]:
    """Return the IWAE estimate of -log p(x) and its effective sample size for each of the images at `rows`."""
    found = []
    what = f"-log p(x) with {nsamples} samples"
    for i, part in enumerate(track(rows.split(max(1, chunk // nsamples)), what)):
        with seeded("evaluate", what, seed, i), evaluating(model):
            found.append(torch.stack(importance_estimate(*placed(model, images, part), nsamples, chunk)))
    return torch.cat(found, 1).double().cpu()


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters."""
    return next(model.parameters()).device


def plain_mean(values: Float[Tensor, " n"]) -> Mean:
    """Return the mean of a value over images, with its standard error std / sqrt(n).

    The images count as a sample of a larger population.
    """
    return Mean(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def difference_mean(cheap: Float[Tensor, " n"], dear: Float[Tensor, " m"], rows: Int64[Tensor, " m"]) -> Mean:
    """Return the mean over n images of a value known for m of them, from a cheap approximation known for all n.

    This is the difference estimator of survey sampling, mean_n(cheap) + mean_m(dear - cheap), which is unbiased for any
    approximation. Its variance over draws of the m images is (1/m - 1/n) var(dear - cheap). The returned error adds
    var(dear) / n, because the n images are themselves a sample, as in `plain_mean`.
    """
    differences = dear - cheap[rows]
    n, m = len(cheap), len(rows)
    variance = differences.var() * (1 / m - 1 / n) + dear.var() / n
    return Mean((cheap.mean() + differences.mean()).item(), math.sqrt(variance.item()))

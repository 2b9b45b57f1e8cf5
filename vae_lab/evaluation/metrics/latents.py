"""Statistics of the latents: KL to the prior, active units, and the decomposition of the rate (ELBO surgery)."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.distributions import Distribution

from vae_lab.errors import require_count
from vae_lab.evaluation.metrics.likelihood import plain_mean
from vae_lab.intervals import Mean
from vae_lab.models.modes import evaluating
from vae_lab.probability.distributions import DiagonalNormal, MixtureOfDiagonalNormals
from vae_lab.probability.latent_model import LatentModel, latent_rates
from vae_lab.system.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHUNK = 256
"""Draws processed at once."""


class ELBOSurgery(NamedTuple):
    """The rate (mean KL to the prior) and the two terms that add up to it, in nats per image.

    Attributes:
        rate: mean of log q(z | x) - log p(z), the sum of the other two.
        mutual_information: mean of log q(z | x) - log q_n(z), the information of a latent about its image.
        marginal_kl: mean of log q_n(z) - log p(z), the KL divergence of the aggregate posterior from the prior.
    """

    rate: Mean
    mutual_information: Mean
    marginal_kl: Mean


@torch.no_grad()
def posterior_statistics(
    model: LatentModel, images: Float[Tensor, "n channels height width"]
) -> tuple[Float[Tensor, "n nlatent"], Float[Tensor, " nlatent"]]:
    """Return the posterior means, and the KL to the prior of each latent in nats, averaged over images.

    Both are float32 tensors on the CPU.
    """
    with seeded("latents"), evaluating(model):  # the rates of a ladder depend on random draws
        parts = [one(part) for one, part in model.split(images, 250)]
    means = torch.cat([part.posterior.mean for part in parts])
    return means.cpu().float(), torch.cat([latent_rates(part) for part in parts]).mean(0).cpu().float()


def latents_figure(means: Float[Tensor, "n nlatent"], rates: Float[Tensor, " nlatent"]) -> "Figure":
    """Return a figure with the KL to the prior of each latent, largest first, and the quantiles of its posterior means.

    The quantiles are the median and the central 50 % and 95 % of the images. Fixed margins and one line collection for
    all latents take a third of the time of a constrained layout with matplotlib's box plots.
    """
    from matplotlib.figure import Figure  # takes half a second

    order = rates.argsort(descending=True)[:64]
    figure = Figure(figsize=(10, 3.8))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.13, top=0.83, wspace=0.2)
    caption = (
        "Latents in the order of their KL to the prior: what each tells about an image, and where images lie on it."
    )
    figure.suptitle(caption, x=0.01, ha="left", fontsize=9)
    places, step = range(len(order)), -(-len(order) // (32 if len(rates) <= 100 else 16))  # as wide as their digits
    left.bar(places, rates[order].numpy(), color="#3b6fb6")
    left.set(ylabel="KL to the prior [nats]", title=f"rate of each latent, {float(rates.sum()):.1f} nats in all")
    low, first, median, third, high = np.quantile(means[:, order].numpy(), [0.025, 0.25, 0.5, 0.75, 0.975], axis=0)
    right.vlines(places, low, high, color="black", linewidth=0.8)
    right.vlines(places, first, third, color="#3b6fb6", linewidth=200 / (len(order) + 10))
    right.plot(places, median, "o", color="#c2452d", markersize=2.5)
    right.axhline(0, color="grey", linewidth=0.5)
    right.set(ylabel="median, 50 % and 95 % of the images", title=f"posterior means of {len(means)} images")
    for axes in (left, right):
        axes.set(xlabel="latent", xlim=(-0.7, len(order) - 0.3))
        axes.set_xticks(places[::step], order[::step].tolist(), fontsize=8 if len(order) <= 16 else 6)
    return figure


def active_units(means: Float[Tensor, "n nlatent"], threshold: float) -> int:
    """Return the number of active latents, whose posterior mean has a variance over images above `threshold`.

    Burda, Grosse and Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, use 0.01 with a prior of variance 1.
    """
    return int((means.double().var(0, correction=0) > threshold).sum())


@torch.no_grad()
def log_aggregate(
    z: Float[Tensor, "s nlatent"],
    means: Float[Tensor, "n nlatent"],
    log_sigmas: Float[Tensor, "n nlatent"],
) -> Float64[Tensor, " s"]:
    """Return log q_n(z) in nats, where q_n = 1/n sum_j q(z | x_j) is the aggregate posterior of n images.

    At most `CHUNK` times n numbers are in memory at once. At the smallest sigma of a posterior, e^-10, the rounding
    error is about 1e-4 nats.
    """
    mixture = MixtureOfDiagonalNormals(DiagonalNormal(means.double(), log_sigmas.double()))
    return torch.cat([mixture.log_prob(part) for part in z.double().split(CHUNK)])


@torch.no_grad()
def elbo_surgery(
    means: Float[Tensor, "n nlatent"],
    log_sigmas: Float[Tensor, "n nlatent"],
    prior: Distribution,
    *,
    ndraws: int,
    seed: int,
) -> ELBOSurgery:
    """Return the rate of n images and its two terms: the mutual information and KL(aggregate posterior || prior).

    Hoffman and Johnson 2016, "ELBO surgery", http://approximateinference.org/accepted/HoffmanJohnson2016.pdf. All three
    are means over the same draws (an image, and a latent from its posterior), so the last two add up to the first. The
    standard errors are those of the draws. The mutual information is that between a latent and an index from 1 to n, so
    it is at most log n. Near that cap, it is a lower bound and marginal_kl an upper bound.

    Args:
        means: posterior means.
        log_sigmas: logarithms of the posteriors' standard deviations.
        prior: p(z), batch shape [].
        ndraws: draws to average over, at least 2.
        seed: seed of the draws.
    """
    require_count("ndraws", ndraws, 2, "; a standard error needs two")
    generator = torch.Generator(means.device).manual_seed(seed)
    rows = torch.randint(len(means), (ndraws,), generator=generator, device=means.device)
    noise = torch.randn(ndraws, means.shape[1], generator=generator, device=means.device, dtype=means.dtype)
    z = means[rows] + log_sigmas[rows].exp() * noise
    log_posterior = DiagonalNormal(means[rows].double(), log_sigmas[rows].double()).log_prob(z.double())
    log_prior = torch.cat([prior.log_prob(part) for part in z.split(CHUNK)]).double()
    log_marginal = log_aggregate(z, means, log_sigmas)
    return ELBOSurgery(
        *map(plain_mean, (log_posterior - log_prior, log_posterior - log_marginal, log_marginal - log_prior))
    )

"""How the latents are used."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.models.vae import LatentModel
from vae_lab.probability.distributions import DiagonalNormal, StandardNormal, kl

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def posterior_statistics(
    model: LatentModel, images: Float[Tensor, "n channels height width"]
) -> tuple[Float[Tensor, "n nlatent"], Float[Tensor, " nlatent"]]:
    """Return the posterior means of the images and each latent's mean KL to N(0, 1) in nats, both on the CPU."""
    parts = [model.posterior(part) for part in images.split(250)]
    mean = torch.cat([part.mean for part in parts])
    log_sigma = torch.cat([part.log_sigma for part in parts])
    alone = DiagonalNormal(mean, log_sigma).each_latent()
    rates = kl(alone, StandardNormal(mean.new_zeros(1)), alone.mean)
    return mean.cpu(), rates.mean(0).cpu()


def latents_figure(means: Float[Tensor, "n nlatent"], rates: Float[Tensor, " nlatent"]) -> "Figure":
    """Return a plot of nats per latent, most used first, beside the spread of the posterior means in the same order."""
    from matplotlib.figure import Figure  # takes half a second

    order = rates.argsort(descending=True)[:64]
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [str(int(i)) for i in order]
    left.bar(names, rates[order].numpy(), color="#3b6fb6")
    left.set(
        xlabel="latent",
        ylabel="KL to the prior [nats]",
        title=f"rate of each latent, {float(rates.sum()):.1f} nats in all",
    )
    right.boxplot(means[:, order].numpy(), tick_labels=names, sym="", medianprops={"color": "#c2452d"})
    right.axhline(0, color="grey", linewidth=0.5)
    right.set(xlabel="latent", ylabel="posterior mean", title=f"posterior means of {len(means)} images")
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8 if len(names) <= 32 else 4)
    return figure

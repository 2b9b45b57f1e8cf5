"""The top-down pass of ladder VAEs, which computes the latents of each group given those of the groups above."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import SymInt, Tensor, nn

from vae_lab.probability.distributions import DiagonalNormal, bounded_log_sigma

Features = list[Float[Tensor, "batch ..."]]
"""The encoder's features: one tensor for each position of the decoder that uses them."""

Count = int | SymInt
"""A number of images; while torch.export traces the model, it is a symbol."""

Choice = Callable[[Tensor, Tensor | None], Tensor]
"""Returns a group's latents, [batch, n], given the means and log sigmas, [batch, 2n], of its prior and posterior."""


class Path(NamedTuple):
    """The result of one top-down pass: latents, prior and posterior over all groups, and the decoder's output."""

    z: Float[Tensor, "batch nlatent"]
    prior: DiagonalNormal
    posterior: DiagonalNormal | None
    output: Float[Tensor, "batch nout height width"]


class TopDownDecoder(nn.Module, ABC):
    """Base class of the top-down decoders of ladder VAEs.

    Attributes:
        sizes: number of latents of each group, from the top down.
    """

    sizes: list[int]

    def forward(self, seen: Features | None, choose: Choice, batch: Count) -> Path:
        """Return the result of a top-down pass; `choose` returns each group's latents from its prior and posterior."""
        priors: list[Tensor] = []
        posteriors: list[Tensor] = []
        latents: list[Tensor] = []

        def draw(prior: Tensor, posterior: Tensor | None) -> Tensor:
            priors.append(prior)
            if posterior is not None:
                posteriors.append(posterior)
            latents.append(choose(prior, posterior))
            return latents[-1]

        output = self.descend(seen, draw, batch)
        return Path(torch.cat(latents, 1), join_groups(priors), join_groups(posteriors) if posteriors else None, output)

    @abstractmethod
    def descend(self, seen: Features | None, draw: Choice, batch: Count) -> Float[Tensor, "batch nout height width"]:
        """Return the decoder's output; call `draw` for the latents of each group, from the top down."""


def normal(parameters: Float[Tensor, "batch two_n"]) -> DiagonalNormal:
    """Return the normal distribution with the given means and log sigmas, concatenated in dimension 1."""
    mean, log_sigma = parameters.chunk(2, 1)
    return DiagonalNormal(mean, bounded_log_sigma(log_sigma))


def join_groups(parameters: Sequence[Float[Tensor, "batch _"]]) -> DiagonalNormal:
    """Return one normal distribution over the latents of all groups, from each group's means and log sigmas."""
    means, log_sigmas = zip(*(numbers.chunk(2, 1) for numbers in parameters), strict=True)
    return DiagonalNormal(torch.cat(means, 1), bounded_log_sigma(torch.cat(log_sigmas, 1)))


def choose_sample(prior: Tensor, posterior: Tensor | None) -> Tensor:
    """Return latents sampled from the posterior, or from the prior if the posterior is None."""
    return normal(prior if posterior is None else posterior).rsample()


def choose_tempered(temperature: float) -> Choice:
    """Return a `Choice` of latents sampled from the prior with standard deviations multiplied by `temperature`."""

    def choose(prior: Tensor, _: Tensor | None) -> Tensor:
        density = normal(prior)
        return density.mean + temperature * (density.rsample() - density.mean)

    return choose


def choose_mean(prior: Tensor, posterior: Tensor | None) -> Tensor:
    """Return the mean of the posterior, or of the prior if the posterior is None."""
    return normal(prior if posterior is None else posterior).mean


def choose_from_noise(noise: Float[Tensor, "batch nlatent"], sizes: Sequence[int], nfree: int = 0) -> Choice:
    """Return a `Choice` of mean + sigma * noise: of the prior in the lowest `nfree` groups, else of the posterior."""
    parts = iter(enumerate(noise.split(list(sizes), 1)))

    def choose(prior: Tensor, posterior: Tensor | None) -> Tensor:
        group, part = next(parts)
        density = normal(prior if posterior is None or group >= len(sizes) - nfree else posterior)
        return density.mean + density.stddev * part

    return choose


def choose_given(z: Float[Tensor, "batch nlatent"], sizes: Sequence[int]) -> Choice:
    """Return a `Choice` that takes each group's latents from the given latents `z`."""
    parts = iter(z.split(list(sizes), 1))
    return lambda *_: next(parts)


def shrink(layer: nn.Module) -> None:
    """Scale a layer's initial weights by 0.1 and set its bias to 0."""
    with torch.no_grad():
        layer.weight.mul_(0.1)  # pyright: ignore[reportCallIssue, reportArgumentType]
        layer.bias.zero_()  # pyright: ignore[reportCallIssue]

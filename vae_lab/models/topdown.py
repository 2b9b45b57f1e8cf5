"""The top-down pass that all ladders share.

Features are what the encoder saw, one tensor for each place on the way down that looks at it; a path is one way down.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.probability.distributions import DiagonalNormal, bounded_log_sigma

Features = list[Float[Tensor, "batch ..."]]

Choice = Callable[[Tensor, Tensor | None], Tensor]
"""Makes a group's latents, [batch, n], of the flat means and log sigmas, [batch, 2n], of its prior and posterior."""


class Path(NamedTuple):
    """One way down: every group's latents side by side, what they were drawn from, and the decoder's output."""

    z: Float[Tensor, "batch nlatent"]
    prior: DiagonalNormal
    posterior: DiagonalNormal | None
    output: Float[Tensor, "batch nout height width"]


class TopDownDecoder(nn.Module, ABC):
    """The role: a network that draws groups of latents on its way down.

    Attributes:
        sizes: latents of each group, from the top down.
    """

    sizes: list[int]

    def forward(self, seen: Features | None, choose: Choice, batch: int) -> Path:
        """Return the path on which each group's latents are what `choose` makes of the group's prior and posterior."""
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
        return Path(torch.cat(latents, 1), joined(priors), joined(posteriors) if posteriors else None, output)

    @abstractmethod
    def descend(self, seen: Features | None, draw: Choice, batch: int) -> Float[Tensor, "batch nout height width"]:
        """Return the decoder's output; `draw` is called once for each group, from the top down."""


def normal(parameters: Float[Tensor, "batch two_n"]) -> DiagonalNormal:
    """Return the normal that a group's numbers describe."""
    mean, log_sigma = parameters.chunk(2, 1)
    return DiagonalNormal(mean, bounded_log_sigma(log_sigma))


def joined(parameters: Sequence[Float[Tensor, "batch _"]]) -> DiagonalNormal:
    """Return the normal over all groups' latents side by side."""
    means, log_sigmas = zip(*(numbers.chunk(2, 1) for numbers in parameters), strict=True)
    return DiagonalNormal(torch.cat(means, 1), bounded_log_sigma(torch.cat(log_sigmas, 1)))


def drawn(prior: Tensor, posterior: Tensor | None) -> Tensor:
    """Choose a draw from the posterior, or from the prior where there is none."""
    return normal(prior if posterior is None else posterior).rsample()


def central(prior: Tensor, posterior: Tensor | None) -> Tensor:
    """Choose the mean."""
    return normal(prior if posterior is None else posterior).mean


def reparametrized(noise: Float[Tensor, "batch nlatent"], sizes: Sequence[int], nfree: int = 0) -> Choice:
    """Choose mean + sigma * noise of the posterior, and of the prior in the lowest `nfree` groups."""
    parts = iter(enumerate(noise.split(list(sizes), 1)))

    def choose(prior: Tensor, posterior: Tensor | None) -> Tensor:
        group, part = next(parts)
        density = normal(prior if posterior is None or group >= len(sizes) - nfree else posterior)
        return density.mean + density.stddev * part

    return choose


def given(z: Float[Tensor, "batch nlatent"], sizes: Sequence[int]) -> Choice:
    """Choose what was given."""
    parts = iter(z.split(list(sizes), 1))
    return lambda *_: next(parts)


def shrink(layer: nn.Module) -> None:
    """Make a layer's first weights a tenth of what they are, and its bias 0."""
    with torch.no_grad():
        layer.weight.mul_(0.1)  # pyright: ignore[reportCallIssue, reportArgumentType]
        layer.bias.zero_()  # pyright: ignore[reportCallIssue]

"""The networks of a ladder: one up that keeps what it saw, one down that draws latents at every size.

The posterior of a group is its prior plus what the encoder adds (Vahdat and Kautz 2020,
https://arxiv.org/abs/2007.03898). There is no normalization: the blocks begin as almost nothing, which keeps the state
tame, and a processor spends a third of its time less.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from vae_lab.probability.distributions import DiagonalNormal, bounded_log_sigma, full_precision

Features = list[Float[Tensor, "batch ..."]]
"""What the encoder saw: at a half of the image's size, a quarter, …, and a vector."""


class Path(NamedTuple):
    """One way down: every group's latents side by side, what they were drawn from, and the decoder's output."""

    z: Float[Tensor, "batch nlatent"]
    prior: DiagonalNormal
    posterior: DiagonalNormal | None
    output: Float[Tensor, "batch nout height width"]


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [B, width, h, w] -> the same; begins as almost nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        shrink(self.body[-1], 0.1)

    def forward(self, x: Float[Tensor, "batch width height width2"]) -> Float[Tensor, "batch width height width2"]:
        """Return the shortcut plus the body."""
        return x + self.body(x)


def shrink(layer: nn.Module, factor: float) -> None:
    """Multiply a layer's first weights, and set its bias to 0."""
    with torch.no_grad():
        layer.weight.mul_(factor)  # pyright: ignore[reportCallIssue, reportArgumentType]
        layer.bias.zero_()  # pyright: ignore[reportCallIssue]


class Encoder(nn.Module):
    """The way up: [B, C, k, k] -> features at k/2, k/4, … and a vector."""

    def __init__(self, nin: int, image_size: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise([nin, *widths]))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(n))) for width, n in zip(widths, blocks, strict=True)
        )
        smallest = image_size // 2 ** len(widths)
        self.head = nn.Linear(widths[-1] * smallest**2, widths[-1])

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Features:
        """Return what is seen at each size, the largest first, and a vector last."""
        features: Features = []
        x = image
        for halve, blocks in zip(self.halve, self.blocks, strict=True):
            x = blocks(halve(silu(x) if features else x))
            features.append(x)
        return [*features, self.head(silu(x).permute(0, 2, 3, 1).flatten(1))]


class Group(nn.Module):
    """One group of latents on a grid: its prior and posterior given the state from above, and what it adds to it."""

    def __init__(self, width: int, nchannels: int) -> None:
        super().__init__()
        self.prior = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 2 * nchannels, 3, padding=1))
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.posterior = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 2 * nchannels, 3, padding=1))
        self.add = nn.Conv2d(nchannels, width, 1)
        self.block = Block(width)
        shrink(self.prior[-1], 0.1)
        shrink(self.posterior[-1], 0.1)
        self.nchannels = nchannels

    def parameters_of(
        self, state: Float[Tensor, "batch width height width2"], seen: Float[Tensor, "batch width height width2"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the flat means and log sigmas of the prior and, if there is something seen, of the posterior."""
        prior = full_precision(self.prior(state))
        if seen is None:
            return flat(prior), None
        return flat(prior), flat(prior + full_precision(self.posterior(self.mix(torch.cat([state, seen], 1)))))

    def forward(
        self, state: Float[Tensor, "batch width height width2"], z: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch width height width2"]:
        """Return the state with this group's latents worked in."""
        return self.block(state + self.add(z.unflatten(1, (self.nchannels, *state.shape[2:])).to(state)))


class Vector(nn.Module):
    """The topmost group: N(0, I), a posterior from the encoder's vector, and the first state."""

    def __init__(self, width: int, size: int, nlatent: int, nblocks: int) -> None:
        super().__init__()
        self.posterior = nn.Linear(width, 2 * nlatent)
        self.add = nn.Linear(nlatent, width * size**2)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(nblocks)))
        self.shape = (size, size, width)
        self.nlatent = nlatent

    def forward(self, z: Float[Tensor, "batch n"]) -> Float[Tensor, "batch width height width2"]:
        """Return the first state."""
        return self.blocks(self.add(z).unflatten(1, self.shape).permute(0, 3, 1, 2))


def flat(parameters: Float[Tensor, "batch two_n height width"]) -> Float[Tensor, "batch two_size"]:
    """Return [means, log sigmas], each flattened."""
    return parameters.flatten(1)


def normal(parameters: Float[Tensor, "batch two_n"]) -> DiagonalNormal:
    """Return the normal that a group's numbers describe."""
    mean, log_sigma = parameters.chunk(2, 1)
    return DiagonalNormal(mean, bounded_log_sigma(log_sigma))


class Up(nn.Module):
    """The state at twice the size: [B, a, h, w] -> [B, b, 2h, 2w]."""

    def __init__(self, before: int, after: int, nblocks: int) -> None:
        super().__init__()
        self.spread = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(after) for _ in range(nblocks)))

    def forward(self, state: Float[Tensor, "batch a height width"]) -> Float[Tensor, "batch b height2 width2"]:
        """Return the state spread out and worked over."""
        return self.blocks(self.spread(silu(state)))


class Decoder(nn.Module):
    """The way down, through all groups of latents: one state that grows to the image's size."""

    def __init__(
        self,
        image_size: int,
        nout: int,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        vector: int,
        groups: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        depth = len(widths)
        self.top = Vector(widths[-1], image_size // 2**depth, vector, blocks[-1])
        stages: list[tuple[int, nn.Module]] = []
        for level in range(depth, 0, -1):
            stages += [(level, Group(widths[level - 1], n)) for halvings, n in groups if halvings == level]
            if level > 1:
                stages.append((level, Up(widths[level - 1], widths[level - 2], blocks[level - 2])))
        self.levels = [level for level, _ in stages]
        self.stages = nn.ModuleList(stage for _, stage in stages)
        self.paint = nn.Sequential(nn.SiLU(), nn.ConvTranspose2d(widths[0], nout, 4, stride=2, padding=1))
        self.sizes = [vector, *(n * (image_size // 2**halvings) ** 2 for halvings, n in groups)]

    def forward(self, seen: Features | None, choose: "Choice", batch: int) -> Path:
        """Return the path on which each group's latents are what `choose` makes of the group's prior and posterior."""
        prior = self.top.add.weight.new_zeros(batch, 2 * self.top.nlatent)
        posterior = None if seen is None else full_precision(self.top.posterior(seen[-1]))
        numbers = [(prior, posterior)]
        latents = [choose(prior, posterior)]
        state = self.top(latents[0])
        for level, stage in zip(self.levels, self.stages, strict=True):
            if isinstance(stage, Group):
                numbers.append(stage.parameters_of(state, None if seen is None else seen[level - 1]))
                latents.append(choose(*numbers[-1]))
                state = stage(state, latents[-1])
            else:
                state = stage(state)
        priors, posteriors = zip(*numbers, strict=True)
        return Path(
            torch.cat(latents, 1), joined(priors), None if seen is None else joined(posteriors), self.paint(state)
        )


def joined(parameters: Sequence[Float[Tensor, "batch _"]]) -> DiagonalNormal:
    """Return the normal over all groups' latents side by side."""
    means, log_sigmas = zip(*(numbers.chunk(2, 1) for numbers in parameters), strict=True)
    return DiagonalNormal(torch.cat(means, 1), bounded_log_sigma(torch.cat(log_sigmas, 1)))


Choice = Callable[[Tensor, Tensor | None], Tensor]


def drawn(prior: Tensor, posterior: Tensor | None) -> Tensor:
    """Choose a draw from the posterior, or from the prior where there is none."""
    return normal(prior if posterior is None else posterior).rsample()


def central(prior: Tensor, posterior: Tensor | None) -> Tensor:
    """Choose the mean."""
    return normal(prior if posterior is None else posterior).mean


def given(z: Float[Tensor, "batch nlatent"], sizes: Sequence[int]) -> Choice:
    """Choose what was given."""
    parts = iter(z.split(list(sizes), 1))
    return lambda *_: next(parts)

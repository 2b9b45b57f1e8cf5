"""Encoder and decoder of a convolutional ladder: a vector of latents on top, groups of latent feature maps below.

    28x28 -> 14x14 -> 7x7 -> vector                         encoder, with features at each size
    vector z_1 -> 7x7 z_2 z_3 -> 14x14 z_4 -> 28x28         decoder

Residual blocks as in Child 2021, https://arxiv.org/abs/2011.10650, but fewer. The encoder's part adds to the prior's
parameters to give the posterior's (Vahdat and Kautz 2020, https://arxiv.org/abs/2007.03898). In place of normalization,
blocks are initialized close to the identity. No layer convolves at full image size, which would cost most.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from vae_lab.errors import require_count
from vae_lab.models.conv_transpose import TransposedConv2d
from vae_lab.models.topdown import Choice, Count, Features, TopDownDecoder, shrink
from vae_lab.probability.distributions import full_precision


class Block(nn.Module):
    """A residual block of two 3x3 convolutions, initialized close to the identity: [B, width, h, w] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        shrink(self.body[-1])

    def forward(self, x: Float[Tensor, "batch width height width2"]) -> Float[Tensor, "batch width height width2"]:
        """Return x + body(x)."""
        return x + self.body(x)


class GridEncoder(nn.Module):
    """The bottom-up encoder: [B, C, k, k] -> feature maps of sizes k/2, k/4, … and a feature vector."""

    def __init__(self, nin: int, image_size: int, *, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        check_levels(widths, blocks, image_size)
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise([nin, *widths]))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(n))) for width, n in zip(widths, blocks, strict=True)
        )
        smallest = image_size // 2 ** len(widths)
        self.head = nn.Linear(widths[-1] * smallest**2, widths[-1])

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Features:
        """Return the feature maps of each size, the largest first, and a feature vector last."""
        features: Features = []
        x = image
        for halve, blocks in zip(self.halve, self.blocks, strict=True):
            x = blocks(halve(silu(x) if features else x))
            features.append(x)
        return [*features, self.head(silu(x).permute(0, 2, 3, 1).flatten(1))]


class Group(nn.Module):
    """The layers of one group of latent feature maps: prior, posterior, and update of the decoder's state."""

    def __init__(self, width: int, nchannels: int) -> None:
        super().__init__()
        self.prior = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 2 * nchannels, 3, padding=1))
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.posterior = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 2 * nchannels, 3, padding=1))
        self.add = nn.Conv2d(nchannels, width, 1)
        self.block = Block(width)
        shrink(self.prior[-1])
        shrink(self.posterior[-1])
        self.nchannels = nchannels

    def parameters_of(
        self, state: Float[Tensor, "batch width height width2"], seen: Float[Tensor, "batch width height width2"] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the flattened means and log sigmas of the prior, and of the posterior (None without features)."""
        prior = full_precision(self.prior(state))
        if seen is None:
            return prior.flatten(1), None
        added = full_precision(self.posterior(self.mix(torch.cat([state, seen], 1))))
        return prior.flatten(1), (prior + added).flatten(1)

    def forward(
        self, state: Float[Tensor, "batch width height width2"], z: Float[Tensor, "batch n"]
    ) -> Float[Tensor, "batch width height width2"]:
        """Return the decoder's state updated with this group's latents."""
        return self.block(state + self.add(z.unflatten(1, (self.nchannels, *state.shape[2:])).to(state)))


class Vector(nn.Module):
    """The layers of the topmost group, a vector with prior N(0, I) and a posterior from the encoder's last features."""

    def __init__(self, width: int, size: int, nlatent: int, nblocks: int) -> None:
        super().__init__()
        self.posterior = nn.Linear(width, 2 * nlatent)
        self.add = nn.Linear(nlatent, width * size**2)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(nblocks)))
        self.shape = (size, size, width)
        self.nlatent = nlatent

    def forward(self, z: Float[Tensor, "batch n"]) -> Float[Tensor, "batch width height width2"]:
        """Return the decoder's initial state (feature maps) for the topmost latents."""
        return self.blocks(self.add(z).unflatten(1, self.shape).permute(0, 3, 1, 2))


class Up(nn.Module):
    """Upsampling by a transposed convolution and residual blocks: [B, a, h, w] -> [B, b, 2h, 2w]."""

    def __init__(self, before: int, after: int, nblocks: int) -> None:
        super().__init__()
        self.spread = TransposedConv2d(before, after, 4, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(after) for _ in range(nblocks)))

    def forward(self, state: Float[Tensor, "batch a height width"]) -> Float[Tensor, "batch b height2 width2"]:
        """Return the decoder's state at twice the height and width."""
        return self.blocks(self.spread(silu(state)))


class GridDecoder(TopDownDecoder):
    """The top-down decoder: a state of feature maps that each group of latents updates and that grows to the image."""

    def __init__(
        self,
        image_size: int,
        nout: int,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        vector: int,
        groups: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        check_levels(widths, blocks, image_size)
        check_groups(vector, groups, len(widths))
        depth = len(widths)
        self.top = Vector(widths[-1], image_size // 2**depth, vector, blocks[-1])
        stages: list[tuple[int, nn.Module]] = []
        for level in range(depth, 0, -1):
            stages += [(level, Group(widths[level - 1], n)) for halvings, n in groups if halvings == level]
            if level > 1:
                stages.append((level, Up(widths[level - 1], widths[level - 2], blocks[level - 2])))
        self.levels = [level for level, _ in stages]
        self.stages = nn.ModuleList(stage for _, stage in stages)
        self.paint = nn.Sequential(nn.SiLU(), TransposedConv2d(widths[0], nout, 4, stride=2, padding=1))
        self.sizes = [vector, *(n * (image_size // 2**halvings) ** 2 for halvings, n in groups)]

    def descend(self, seen: Features | None, draw: Choice, batch: Count) -> Float[Tensor, "batch nout height width"]:
        """Return the decoder's output, with each group's latents chosen by `draw`."""
        prior = self.top.add.weight.new_zeros(batch, 2 * self.top.nlatent)
        posterior = None if seen is None else full_precision(self.top.posterior(seen[-1]))
        state = self.top(draw(prior, posterior))
        for level, stage in zip(self.levels, self.stages, strict=True):
            if isinstance(stage, Group):
                numbers = stage.parameters_of(state, None if seen is None else seen[level - 1])
                state = stage(state, draw(*numbers))
            else:
                state = stage(state)
        return self.paint(state)


def check_levels(widths: Sequence[int], blocks: Sequence[int], image_size: int) -> None:
    """Raise ValueError unless `widths` and `blocks` have equal length, and the image can be halved that many times."""
    for i, width in enumerate(widths):
        require_count(f"model.widths[{i}]", width)
    depth = len(widths)
    if len(blocks) != depth or min(blocks, default=-1) < 0:
        raise ValueError(f"model.blocks={[*blocks]} must be one count for each of model.widths={[*widths]}.")
    if image_size % 2**depth or image_size < 2**depth:
        raise ValueError(
            f"data.image_size={image_size} cannot be halved {depth} times; choose a multiple of {2**depth}, or another"
            " number of model.widths."
        )


def check_groups(vector: int, groups: Sequence[Sequence[int]], depth: int) -> None:
    """Raise ValueError unless the groups are in top-down order, each after 1 to `depth` halvings of the image."""
    require_count("model.vector", vector)
    for i, (_, n) in enumerate(groups):
        require_count(f"model.groups[{i}]", n)
    levels = [halvings for halvings, _ in groups]
    if levels != sorted(levels, reverse=True) or not all(1 <= level <= depth for level in levels):
        raise ValueError(
            f"model.groups={[list(group) for group in groups]} must be (halvings, channels) from the top down, with"
            f" halvings from {depth} to 1."
        )

"""Encoder and decoder of a fully connected ladder, for small images and CPUs.

    image -> f_1 -> f_2 -> f_3                    encoder, one feature vector for each group, the top group's last
    z_1 -> state, z_2 -> state, z_3 -> image      decoder

As in Sønderby et al. 2016, https://arxiv.org/abs/1602.02282, but with residual blocks in place of batch normalization.
The encoder's part adds to the prior's parameters to give the posterior's (Vahdat and Kautz 2020,
https://arxiv.org/abs/2007.03898).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from vae_lab.errors import require_count
from vae_lab.models.mlp import Block, State
from vae_lab.models.topdown import Choice, Count, Features, TopDownDecoder, shrink
from vae_lab.probability.distributions import full_precision


class DenseEncoder(nn.Module):
    """The bottom-up encoder: [B, C, k, k] -> one feature vector for each group."""

    def __init__(self, nin: int, image_size: int, *, width: int, groups: Sequence[int]) -> None:
        super().__init__()
        require_count("model.width", width)
        require_count("model.groups", len(groups))
        self.stem = nn.Linear(nin * image_size**2, width)
        self.blocks = nn.ModuleList(Block(width) for _ in groups)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Features:
        """Return one feature vector for each group, the lowest group's first."""
        features: Features = []
        state = self.stem(image.flatten(1))
        for block in self.blocks:
            state = block(state)
            features.append(state)
        return features


class Group(nn.Module):
    """The layers of one group of latents: prior, posterior, and update of the decoder's state."""

    def __init__(self, width: int, nlatent: int) -> None:
        super().__init__()
        self.prior = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * nlatent))
        self.posterior = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 2 * nlatent))
        self.add = nn.Linear(nlatent, width)
        self.block = Block(width)
        shrink(self.prior[-1])
        shrink(self.posterior[-1])

    def parameters_of(self, state: State, seen: State | None) -> tuple[Tensor, Tensor | None]:
        """Return the means and log sigmas of the prior, and of the posterior (None without the encoder's features)."""
        prior = full_precision(self.prior(state))
        if seen is None:
            return prior, None
        return prior, prior + full_precision(self.posterior(torch.cat([state, seen], 1)))

    def forward(self, state: State, z: Float[Tensor, "batch n"]) -> State:
        """Return the decoder's state updated with this group's latents."""
        return self.block(state + self.add(z))


class Top(nn.Module):
    """The layers of the topmost group, with prior N(0, I) and a posterior from the encoder's last feature vector."""

    def __init__(self, width: int, nlatent: int) -> None:
        super().__init__()
        self.posterior = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * nlatent))
        self.add = nn.Linear(nlatent, width)
        self.block = Block(width)

    def forward(self, z: Float[Tensor, "batch n"]) -> State:
        """Return the decoder's initial state (a vector) for the topmost latents."""
        return self.block(self.add(z))


class DenseDecoder(TopDownDecoder):
    """The top-down decoder: a state vector that each group of latents updates, then a linear map to the image."""

    def __init__(self, image_size: int, nout: int, *, width: int, groups: Sequence[int]) -> None:
        super().__init__()
        require_count("model.width", width)
        require_count("the number of model.groups", len(groups))
        for i, n in enumerate(groups):
            require_count(f"model.groups[{i}]", n)
        self.sizes = list(groups)
        self.top = Top(width, groups[0])
        self.groups = nn.ModuleList(Group(width, n) for n in groups[1:])
        self.paint = nn.Linear(width, nout * image_size**2)
        self.shape = (nout, image_size, image_size)

    def descend(self, seen: Features | None, draw: Choice, batch: Count) -> Float[Tensor, "batch nout height width"]:
        """Return the decoder's output, with each group's latents chosen by `draw`."""
        prior = self.top.add.weight.new_zeros(batch, 2 * self.sizes[0])
        below = [None] * len(self.groups) if seen is None else seen[-2::-1]
        state = self.top(draw(prior, None if seen is None else full_precision(self.top.posterior(seen[-1]))))
        for group, features in zip(self.groups, below, strict=True):
            assert isinstance(group, Group)
            state = group(state, draw(*group.parameters_of(state, features)))
        return self.paint(silu(state)).unflatten(1, self.shape)

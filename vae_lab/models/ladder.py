"""A hierarchy of latents: a top-down network in which each group of latents is drawn given the groups above it.

    p(z) = p(z_1) p(z_2 | z_1) …        q(z | x) = q(z_1 | x) q(z_2 | z_1, x) …

The posterior goes down the same path as the prior and adds what the encoder saw at that size: Sønderby et al. 2016,
https://arxiv.org/abs/1602.02282; with residual blocks and latents on grids as in Child 2021,
https://arxiv.org/abs/2011.10650, and a posterior given relative to the prior as in Vahdat and Kautz 2020,
https://arxiv.org/abs/2007.03898.

    28x28 -> 14x14 -> 7x7 -> vector          up: what the encoder saw at each size
    vector z_1 -> 7x7 z_2 z_3 -> 14x14 z_4 -> 28x28

Group i is normal given the ones above, so along a path all latents together are one diagonal normal whose numbers
depend on that path. That is what `infer` returns: the KL of two such normals is the sum over groups of
KL(q(z_i | z_<i, x) || p(z_i | z_<i)), which estimates the rate with less noise than a difference of log-densities.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from vae_lab.errors import require_counts
from vae_lab.models.vae import Inference, LatentModel
from vae_lab.probability.distributions import DiagonalNormal, bounded_log_sigma, full_precision
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.probability.priors import Prior, StandardNormal

Features = list[Float[Tensor, "batch *shape"]]
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
            x = blocks(halve(nn.functional.silu(x) if features else x))
            features.append(x)
        return [*features, self.head(torch.nn.functional.silu(x).permute(0, 2, 3, 1).flatten(1))]


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
        return self.blocks(self.spread(nn.functional.silu(state)))


class Decoder(nn.Module):
    """The way down, through all groups of latents: one state that grows to the image's size."""

    def __init__(
        self, image_size: int, nout: int, widths: Sequence[int], blocks: Sequence[int], vector: int, groups: Sequence[tuple[int, int]]
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


class TopDown(Distribution):
    """p(z), or q(z | x) where something was seen: batch [] or [B], event [nlatent].

    Args:
        decoder: the way down.
        seen: the encoder's features of B images, or None for the prior.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, decoder: Decoder, seen: Features | None) -> None:
        self.decoder = decoder
        self.seen = seen
        batch = torch.Size() if seen is None else seen[-1].shape[:1]
        super().__init__(batch, torch.Size([sum(decoder.sizes)]), validate_args=False)

    def path(self, choose: Choice, shape: tuple[int, ...]) -> Path:
        """Return one path for each entry of `shape` and the batch, flat."""
        total = torch.Size(shape) + self.batch_shape
        seen = None if self.seen is None else [f.expand(*shape, *f.shape).flatten(0, len(shape)) for f in self.seen]
        return self.decoder(seen, choose, total.numel())

    @property
    def mean(self) -> Tensor:
        """The path of means: each group's mean given the means above, which is not quite the mean over paths."""
        return self.path(central, ()).z.view(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws, [sample_shape, ..., nlatent]."""
        return self.path(drawn, sample_shape).z.view(torch.Size(sample_shape) + self.batch_shape + self.event_shape)

    def log_prob(self, value: Float[Tensor, "*shape nlatent"]) -> Float[Tensor, "*shape"]:
        """Return the log-density of latents, in nats; `value` ends with the batch's shape."""
        before = value.shape[: value.dim() - 1 - len(self.batch_shape)]
        latents = value.reshape(-1, value.shape[-1])
        path = self.path(given(latents, self.decoder.sizes), before)
        density = path.prior if path.posterior is None else path.posterior
        return density.log_prob(path.z).view(value.shape[:-1])


class Ladder(LatentModel):
    """A vector of latents on top, and groups of latents on grids under it.

    Args:
        widths: channels at a half of the image's size, a quarter, …; the length is the number of halvings.
        blocks: residual blocks at each of those sizes, on the way up and on the way down.
        vector: latents of the topmost group.
        groups: (halvings, channels) of each further group, from the top down.
        likelihood: makes a density of the decoder's output.
        prior: must be the standard normal: it is the topmost group's, and the others' are learned.
        channels: image channels.
        image_size: image height and width in pixels.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        vector: int,
        groups: Sequence[tuple[int, int]],
        likelihood: Likelihood,
        prior: Callable[..., Prior],
        channels: int,
        image_size: int,
    ) -> None:
        super().__init__()
        require_counts(model__vector=vector, **{f"model__widths_{i}": width for i, width in enumerate(widths)})
        check_groups(groups, len(widths), image_size)
        if not isinstance(prior(nlatent=1), StandardNormal):
            raise ValueError("model=ladder learns the prior of its groups itself; choose prior=standard_normal.")
        self.channels = channels
        self.image_size = image_size
        self.likelihood = likelihood
        self.encoder = Encoder(channels, image_size, widths, blocks)
        self.decoder = Decoder(image_size, channels * likelihood.params_per_channel, widths, blocks, vector, groups)
        self.nlatent = sum(self.decoder.sizes)

    def posterior(self, image: Float[Tensor, "batch channels height width"]) -> TopDown:
        """Return q(z | x) of each image."""
        return TopDown(self.decoder, self.encoder(image))

    def prior(self, posterior: Distribution | None = None) -> TopDown:
        """Return p(z)."""
        return TopDown(self.decoder, None)

    def generative(self, z: Float[Tensor, "batch nlatent"]) -> Distribution:
        """Return p(x | z) of all groups' latents side by side."""
        return self.likelihood(self.decoder(None, given(z, self.decoder.sizes), len(z)).output)

    def infer(self, posterior: TopDown, shape: tuple[int, ...] = ()) -> Inference:
        """Return the three distributions along one path down for each draw and image."""
        path = posterior.path(drawn, shape)
        assert path.posterior is not None
        batch = torch.Size(shape) + posterior.batch_shape
        q, p = (
            DiagonalNormal(d.loc.unflatten(0, batch), d.log_sigma.unflatten(0, batch))
            for d in (path.posterior, path.prior)
        )
        return Inference(q, path.z.unflatten(0, batch), self.likelihood(path.output), p)


def check_groups(groups: Sequence[tuple[int, int]], depth: int, image_size: int) -> None:
    """Raise ValueError unless the groups fit the network, top down, and the network the image."""
    if image_size % 2**depth or image_size < 2**depth:
        raise ValueError(
            f"data.image_size={image_size} cannot be halved {depth} times; choose a multiple of {2**depth}, or another"
            " number of model.widths."
        )
    levels = [halvings for halvings, _ in groups]
    require_counts(**{f"model__groups_{i}": channels for i, (_, channels) in enumerate(groups)})
    if levels != sorted(levels, reverse=True) or not all(1 <= level <= depth for level in levels):
        raise ValueError(
            f"model.groups={[list(group) for group in groups]} must be (halvings, channels) from the top down, with"
            f" halvings from {depth} to 1."
        )

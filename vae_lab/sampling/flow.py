"""Rectified flows: densities of latents that are learned after training, on draws from the posteriors of images.

A network learns the velocity that carries noise z_0 ~ N(0, I) along straight lines to standardised latents z_1:

    z_t = (1 - t) z_0 + t z_1        minimise E |v(z_t, t) - (z_1 - z_0)|^2 over v, t uniform in (0, 1)
    dz/dt = v(z, t)                  from t = 0 to t = 1 carries noise to new latents

Liu et al. 2023, equation 1, https://arxiv.org/abs/2209.03003; Lipman et al. 2023, https://arxiv.org/abs/2210.02747.

The velocity is a multiple of z, which is exact for independent standardised normals, plus a network that starts at 0.
Before the first step, the density is therefore the normal with the latents' means and variances.
"""

import copy
import logging
import time
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vae_lab.probability.distributions import UncheckedDistribution
from vae_lab.system.progress import track
from vae_lab.system.randomness import seeded

log = logging.getLogger(__name__)


class FitSettings(NamedTuple):
    """Settings of a flow's network and of its fit.

    Attributes:
        width: channels of the network for vectors.
        map_width: channels of the network for feature maps.
        nblocks: residual blocks.
        nfrequencies: frequencies of the time features.
        batch_size: vectors of a batch.
        map_batch_size: latents of a batch, if they are feature maps.
        nsteps: largest number of batches.
        lr: learning rate of Adam, which falls linearly to 0.
        ema_decay: decay of the moving average of the weights.
        check_every: batches between two losses of the holdout.
        patience: losses without improvement that end the fit.
        nrepeats: draws from each posterior of the holdout.
    """

    width: int = 128
    map_width: int = 64
    nblocks: int = 3
    nfrequencies: int = 8
    batch_size: int = 256
    map_batch_size: int = 64
    nsteps: int = 3000
    lr: float = 2e-3
    ema_decay: float = 0.99
    check_every: int = 100
    patience: int = 10
    nrepeats: int = 8


FIT = FitSettings()

NINTERVALS = 16
"""Steps of the midpoint rule from noise to latents."""


class Posteriors(NamedTuple):
    """Means and standard deviations of the posteriors of images; draws are new in each batch of a fit."""

    mean: Float[Tensor, "n nlatent"]
    stddev: Float[Tensor, "n nlatent"]

    def rows(self, chosen: Tensor) -> "Posteriors":
        """Return the posteriors of some of the images, by a mask or by numbers."""
        return Posteriors(self.mean[chosen], self.stddev[chosen])

    def without_spread(self) -> "Posteriors":
        """Return the same means with standard deviations of 0."""
        return Posteriors(self.mean, torch.zeros_like(self.stddev))

    def draw(self) -> Float[Tensor, "n nlatent"]:
        """Return one latent vector of each posterior."""
        return self.mean + self.stddev * torch.randn_like(self.mean)


class ResidualBlock(nn.Module):
    """x + body(x, time): two layers, with a shift of the channels by the time between them."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.first, self.second = layer(width, width, side), layer(width, width, side)
        self.shift = nn.Linear(2 * FIT.nfrequencies, width)

    def forward(
        self, x: Float[Tensor, "batch width *places"], time: Float[Tensor, "batch nfeatures"]
    ) -> Float[Tensor, "batch width *places"]:
        """Return the block's output."""
        shift = self.shift(time)
        return x + self.second(silu(self.first(silu(x)) + shift.view(*shift.shape, *(1 for _ in x.shape[2:]))))


def layer(nin: int, nout: int, side: int) -> nn.Module:
    """Return a linear map for vectors, which have side 1, and a 3x3 convolution for feature maps."""
    return nn.Linear(nin, nout) if side == 1 else nn.Conv2d(nin, nout, 3, padding=1)


class Velocity(nn.Module):
    """The velocity v(z, t) of standardised latents, by a residual network: of linear maps, or of convolutions on maps.

    Args:
        nlatent: number of latents.
        cells: latents of one feature map, a square number; 1 for a vector.

    Raises:
        ValueError: if the latents do not fill such maps.
    """

    frequencies: Float[Tensor, " nfrequencies"]

    def __init__(self, nlatent: int, cells: int) -> None:
        super().__init__()
        side = round(cells**0.5)
        if side**2 != cells or nlatent % cells:
            raise ValueError(f"{nlatent} latents do not fill square maps of {cells}.")
        self.cells = cells
        self.shape = (nlatent,) if cells == 1 else (nlatent // cells, side, side)
        width, self.batch_size = (FIT.width, FIT.batch_size) if cells == 1 else (FIT.map_width, FIT.map_batch_size)
        self.register_buffer("frequencies", torch.pi * torch.arange(1.0, FIT.nfrequencies + 1), persistent=False)
        self.enter = layer(self.shape[0], width, side)
        self.blocks = nn.ModuleList(ResidualBlock(width, side) for _ in range(FIT.nblocks))
        self.leave = layer(width, self.shape[0], side)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Float[Tensor, "batch nlatent"], t: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch nlatent"]:
        """Return dz/dt.

        If z_0 and z_1 are standard normals, E[z_1 - z_0 | z_t] = Cov(z_1 - z_0, z_t) / Var(z_t) z_t, with covariance
        2t - 1 and variance (1 - t)^2 + t^2.
        """
        angles = t * self.frequencies
        time = torch.cat([angles.sin(), angles.cos()], 1)
        x = self.enter(z.view(len(z), *self.shape))
        for block in self.blocks:
            x = block(x, time)
        return (2 * t - 1) / ((1 - t).square() + t.square()) * z + self.leave(x).flatten(1)


class Flow(UncheckedDistribution):
    """The distribution of location + scale * z_1, where the flow carries noise z_0 to z_1: batch [], event [nlatent].

    Args:
        location: mean of the latents, [nlatent].
        scale: their standard deviation, [nlatent].
        velocity: the network.
        temperature: standard deviation of the noise z_0.
    """

    def __init__(
        self,
        location: Float[Tensor, " nlatent"],
        scale: Float[Tensor, " nlatent"],
        velocity: Velocity,
        temperature: float = 1.0,
    ) -> None:
        self.location, self.scale, self.temperature = location.double().cpu(), scale.double().cpu(), temperature
        self.velocity = velocity.double().cpu().eval()  # as the decoder in generate_images, for the same reason
        super().__init__(torch.Size(), location.shape)

    def draw_noise(self, sample_shape: tuple[int, ...] = ()) -> Float[Tensor, "*sample_shape nlatent"]:
        """Return noise z_0, which `transport` carries to latents."""
        noise = torch.randn(torch.Size(sample_shape) + self.location.shape, dtype=self.location.dtype)
        return self.temperature * noise

    @torch.no_grad()
    def transport(self, noise: Float[Tensor, "batch nlatent"]) -> Float[Tensor, "batch nlatent"]:
        """Return the latents to which the flow carries noise, by the midpoint rule."""
        z, step = noise, 1 / NINTERVALS
        for start in torch.arange(NINTERVALS, dtype=noise.dtype) * step:
            t = start.expand(len(z), 1)
            z = z + step * self.velocity(z + step / 2 * self.velocity(z, t), t + step / 2)
        return self.location + self.scale * z

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return draws, [sample_shape, nlatent]."""
        noise = self.draw_noise(sample_shape)
        parts = noise.view(-1, *self.event_shape).split(self.velocity.batch_size)
        return torch.cat([self.transport(part) for part in parts]).view(noise.shape)


def fitted_flow(posteriors: Posteriors, cells: int, seed: int, nsteps: int | None = None) -> Flow:
    """Return a flow fitted to draws from posteriors, with the weights of the smallest loss on a holdout.

    Every tenth posterior is held out, and the fit ends when their loss no longer falls, because a flow that is fitted
    longer learns to repeat the latents of few images.

    Args:
        posteriors: of the training images.
        cells: latents of one feature map; 1 for a vector.
        seed: of the weights and of all noise.
        nsteps: largest number of batches; None is that of FIT.

    Example:
        >>> import torch
        >>> from vae_lab.sampling.flow import Posteriors, fitted_flow
        >>> posteriors = Posteriors(mean=torch.randn(100, 2), stddev=torch.full((100, 2), 0.1))
        >>> fitted_flow(posteriors, cells=1, seed=0, nsteps=3).sample((5,)).shape
        torch.Size([5, 2])
    """
    held = torch.arange(len(posteriors.mean)) % 10 == 9
    location = posteriors.mean.mean(0)
    scale = (posteriors.mean.var(0, correction=0) + posteriors.stddev.square().mean(0)).sqrt().clamp(min=1e-6)
    standard = Posteriors((posteriors.mean - location) / scale, posteriors.stddev / scale)
    with seeded("flow", seed):
        velocity = Velocity(posteriors.mean.shape[1], cells).to(posteriors.mean)
        learn_velocity(velocity, standard.rows(~held), standard.rows(held), FIT.nsteps if nsteps is None else nsteps)
    return Flow(location, scale, velocity)


def learn_velocity(velocity: Velocity, training: Posteriors, held: Posteriors, nsteps: int) -> None:
    """Fit the network; it ends with the moving average of its weights that has the smallest loss on `held`."""
    started = time.perf_counter()
    average = AveragedModel(velocity, multi_avg_fn=get_ema_multi_avg_fn(FIT.ema_decay))
    optimizer = torch.optim.Adam(velocity.parameters(), FIT.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, nsteps)
    several = torch.arange(len(held.mean), device=held.mean.device).repeat(FIT.nrepeats)
    fixed = straight_lines(held.rows(several).draw())
    best, best_loss, best_step, step = copy.deepcopy(velocity.state_dict()), holdout_loss(velocity, fixed), 0, 0
    first = best_loss
    for step in track(range(1, nsteps + 1), "flow"):
        chosen = torch.randint(len(training.mean), (velocity.batch_size,))
        loss = line_loss(velocity, straight_lines(training.rows(chosen).draw()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(velocity)
        if step % FIT.check_every == 0:
            found = holdout_loss(average.module, fixed)
            if found < best_loss:
                best, best_loss, best_step = copy.deepcopy(average.module.state_dict()), found, step
            elif step - best_step >= FIT.patience * FIT.check_every:
                break
    velocity.load_state_dict(best)
    line = "flow: holdout loss %.4f before and %.4f after %d of %d steps, %.0f s"
    log.info(line, first, best_loss, best_step, step, time.perf_counter() - started)


class Lines(NamedTuple):
    """Points z_t on straight lines from noise to latents, their times t, and the lines' directions z_1 - z_0."""

    point: Float[Tensor, "n nlatent"]
    t: Float[Tensor, "n 1"]
    direction: Float[Tensor, "n nlatent"]


def straight_lines(latents: Float[Tensor, "n nlatent"]) -> Lines:
    """Return a point on the line from noise to each latent vector; times are stratified, one in each of n intervals."""
    n = len(latents)
    noise = torch.randn_like(latents)
    t = ((torch.randperm(n)[:, None] + torch.rand(n, 1)) / n).to(latents)
    return Lines((1 - t) * noise + t * latents, t, latents - noise)


def line_loss(velocity: nn.Module, lines: Lines) -> Float[Tensor, ""]:
    """Return the mean squared error of the velocity, per latent."""
    return (velocity(lines.point, lines.t) - lines.direction).square().mean()


@torch.no_grad()
def holdout_loss(velocity: nn.Module, lines: Lines) -> float:
    """Return the mean squared error of the velocity on many lines, in batches."""
    parts = zip(*(part.split(1024) for part in lines), strict=True)
    return sum(line_loss(velocity, Lines(*part)).item() * len(part[0]) for part in parts) / len(lines.point)

"""A model with random weights, whose training step and generation are measured."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vae_lab.data.sample import Sample
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import Objective
from vae_lab.runs.configs import build
from vae_lab.system.devices import arithmetic

STEPS = 2
"""Training steps until peak memory: the second forward pass holds the gradients of the first step."""


class Setting(NamedTuple):
    """The settings of a `Workload`; `config` holds the resolved configs of model, objective and optimizer."""

    config: dict[str, Any]
    batch_size: int
    device: str
    precision: str


class Workload:
    """A model, its optimizer and a batch of binary noise, which every likelihood supports."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        with torch.device(setting.device):
            self.model: LatentModel = build(setting.config["model"])
            shape = (setting.batch_size, self.model.channels, self.model.image_size, self.model.image_size)
            image = torch.randint(0, 2, shape, dtype=torch.uint8).to(torch.float32, memory_format=torch.channels_last)
            self.batch = Sample(image, torch.zeros(setting.batch_size, dtype=torch.int64))
        channels_last(self.model)
        self.objective: Objective = build(setting.config["objective"])
        make_optimizer: Callable[..., Optimizer] = build(setting.config["optimizer"])
        self.optimizer = make_optimizer(self.model.named_parameters())
        self.steps = 0

    @property
    def given(self) -> LatentModel:
        """The model conditioned on the batch's labels; the model itself if it is unconditional."""
        return self.model.given(self.batch.label)

    def train(self) -> None:
        """Run one training step, with the operations in the order of `VAETask`."""
        with self.autocast():
            loss = self.objective(self.given, self.batch, self.steps).loss.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1

    @torch.no_grad()
    def generate(self) -> Tensor:
        """Return the images that the model decodes from a batch of prior samples, as means of the likelihood."""
        with self.autocast():
            return self.given.generative(self.model.prior().sample((self.setting.batch_size,))).mean

    def autocast(self) -> torch.autocast:
        """Return the autocast context for the precision."""
        return arithmetic(self.setting.precision, torch.device(self.setting.device).type)


def channels_last(model: nn.Module) -> None:
    """Convert the weights of convolutions to channels-last.

    `model.to(memory_format=...)` does not support fake tensors.
    """
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.dim() == 4:
                weight = weight.detach().contiguous(memory_format=torch.channels_last)  # noqa: PLW2901
                setattr(module, name, nn.Parameter(weight))


def phases(workload: Workload) -> Iterator[str]:
    """Run generation, then training, and yield the name of each after it has run."""
    workload.generate()
    yield "generation"
    for _ in range(STEPS):
        workload.train()
    yield "training"

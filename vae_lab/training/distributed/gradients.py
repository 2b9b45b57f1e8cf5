"""Gradients of several losses, averaged over processes."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.training.distributed.collectives import averaged


def take(parameters: Sequence[nn.Parameter], loss: Float[Tensor, ""]) -> None:
    """Give these parameters the loss's gradient, but for those that are frozen, and leave none anywhere else."""
    moving = trainable(parameters)
    gradients = torch.autograd.grad(loss, moving, retain_graph=True) if moving else ()
    for parameter, gradient in zip(moving, averaged(gradients), strict=True):
        parameter.grad = gradient


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that no callback has frozen."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def averaged_alike(*groups: Sequence[Tensor | None]) -> tuple[list[Tensor | None], ...]:
    """Return the means over all processes of several groups of gradients; those that are None stay so."""
    means = iter(averaged([gradient for group in groups for gradient in group if gradient is not None]))
    return tuple([None if gradient is None else next(means) for gradient in group] for group in groups)


def finite(*modules: nn.Module) -> bool:
    """Return whether every weight and buffer of the modules is a finite number."""
    return all(bool(tensor.isfinite().all()) for module in modules for tensor in module.state_dict().values())

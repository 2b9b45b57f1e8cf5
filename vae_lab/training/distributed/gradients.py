"""Gradients of several losses, averaged over processes."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.training.distributed.collectives import mean_over_processes


def set_gradients(parameters: Sequence[nn.Parameter], loss: Float[Tensor, ""]) -> None:
    """Set `grad` of all parameters that are not frozen to the gradient of the loss, averaged over processes."""
    updated = trainable(parameters)
    gradients = torch.autograd.grad(loss, updated, retain_graph=True) if updated else ()
    assign_gradients(updated, mean_over_processes(gradients))


def assign_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Set `grad` of each parameter, in the parameter's memory layout; None stays None.

    `torch.autograd.grad` returns other layouts, for example of weights with spectral normalization, and on CUDA the
    fused optimizers require equal ones.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)  # noqa: PLW2901
        parameter.grad = gradient


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that require gradients, without those that a callback has frozen."""
    return [parameter for parameter in parameters if parameter.requires_grad]


def mean_of_groups(*groups: Sequence[Tensor | None]) -> tuple[list[Tensor | None], ...]:
    """Return groups of gradients, with each gradient averaged over all processes; None stays None."""
    means = iter(mean_over_processes([gradient for group in groups for gradient in group if gradient is not None]))
    return tuple([None if gradient is None else next(means) for gradient in group] for group in groups)


def all_finite(*modules: nn.Module) -> bool:
    """Return whether every weight and buffer of the modules is finite."""
    return all(bool(tensor.isfinite().all()) for module in modules for tensor in module.state_dict().values())

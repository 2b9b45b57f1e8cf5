"""Collective operations; each does nothing in a run of one process."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    """Return whether this process is one of several that train the same model."""
    return dist.is_available() and dist.is_initialized()


def mean_over_processes(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return each tensor's mean over all processes, by one all-reduce; shapes must be equal in all processes."""
    if not is_distributed() or not tensors:
        return list(tensors)
    message = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(message)
    parts = (message / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [torch.empty_like(ours).copy_(mean.view(ours.shape)) for ours, mean in zip(tensors, parts, strict=True)]


@torch.no_grad()
def synchronize_buffers(module: nn.Module) -> None:
    """Set each buffer of a module to its mean over all processes, or to its maximum if it is an integer."""
    if not is_distributed():
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    for ours, mean in zip(buffers, mean_over_processes(buffers), strict=True):
        ours.copy_(mean)
    for count in module.buffers():
        if not count.is_floating_point() and count.dtype != torch.bool:
            dist.all_reduce(count, dist.ReduceOp.MAX)


@torch.no_grad()
def broadcast_weights(module: nn.Module) -> None:
    """Copy the parameters and buffers of rank 0 to all other processes."""
    if is_distributed():
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, 0)


def max_over_processes(number: int, device: torch.device) -> int:
    """Return the maximum of an integer over all processes."""
    if not is_distributed():
        return number
    shared = torch.tensor(number, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def destroy_group() -> None:
    """Destroy the process group, so that the next run in this process is not distributed."""
    if is_distributed():
        dist.destroy_process_group()

"""Collective operations; each does nothing in a run of one process."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def several() -> bool:
    """Return whether other processes train the same model."""
    return dist.is_available() and dist.is_initialized()


def averaged(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means over all processes, fetched in one message; each process gives tensors of the same shapes."""
    if not several() or not tensors:
        return list(tensors)
    message = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    dist.all_reduce(message)
    parts = (message / dist.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [torch.empty_like(ours).copy_(mean.view(ours.shape)) for ours, mean in zip(tensors, parts, strict=True)]


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give all processes the same buffers: means of numbers, and the largest of counts."""
    if not several():
        return
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    for ours, mean in zip(buffers, averaged(buffers), strict=True):
        ours.copy_(mean)
    for count in module.buffers():
        if not count.is_floating_point() and count.dtype != torch.bool:
            dist.all_reduce(count, dist.ReduceOp.MAX)


@torch.no_grad()
def copy_first(module: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first."""
    if several():
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, 0)


def largest(number: int, device: torch.device) -> int:
    """Return the largest of the numbers of all processes."""
    if not several():
        return number
    shared = torch.tensor(number, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def destroy_group() -> None:
    """Take leave of the other processes, so that the next run of this one starts alone."""
    if several():
        dist.destroy_process_group()

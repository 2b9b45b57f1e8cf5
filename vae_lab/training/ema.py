"""Exponential moving average (EMA) of the weights in training."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightEMA:
    """Keeps the EMA of a module's weights in a second module of the same architecture.

    Buffers of numbers, such as the running statistics of batch normalization, are averaged as the weights are: those of
    the last few batches don't belong to the averaged weights. Other buffers, such as counts, are copied.

    The decay is min(decay, (1 + step) / (10 + step)), so that the average forgets the initial weights.

    Args:
        average: the module that holds the average.
        source: the module in training.
        decay: largest decay per step.
    """

    def __init__(self, average: nn.Module, source: nn.Module, decay: float) -> None:
        self.average = average
        self.source = source
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the current weights, after `step` earlier updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(numbers_of(self.average), numbers_of(self.source), strict=True))
        averages, sources = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        get_ema_multi_avg_fn(decay)(averages, sources, None)
        for ours, theirs in pairs:
            if not ours.is_floating_point():
                ours.copy_(theirs)


def numbers_of(module: nn.Module) -> list[torch.Tensor]:
    """Return the parameters and the buffers of a module."""
    return [*module.parameters(), *module.buffers()]

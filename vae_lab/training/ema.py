"""An exponential moving average (EMA) of the weights in training."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightEMA:
    """Keeps one module the EMA of another one's weights; buffers are copied.

    The decay grows from 0.1 to its full value, as (1 + step) / (10 + step), so that the average forgets the start.

    Args:
        average: what holds the average.
        source: what is trained, of the same architecture.
        decay: per step, once it is reached.
    """

    def __init__(self, average: nn.Module, source: nn.Module, decay: float) -> None:
        self.average = average
        self.source = source
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights in training, after `step` earlier updates."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(tuple(self.average.parameters()), tuple(self.source.parameters()), None)
        for ours, theirs in zip(self.average.buffers(), self.source.buffers(), strict=True):
            ours.copy_(theirs)

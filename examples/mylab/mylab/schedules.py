"""A schedule of the learning rate."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class InverseSqrt(LambdaLR):
    """Rises linearly for `warmup` steps, then falls with the inverse square root of the step.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """

    def __init__(self, optimizer: Optimizer, warmup: int) -> None:
        if warmup < 1:
            raise ValueError(f"schedule.warmup must be at least 1, not {warmup}.")
        super().__init__(optimizer, lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5))

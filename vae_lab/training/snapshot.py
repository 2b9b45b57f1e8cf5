"""A copy of weights and optimizer states in memory, to roll back to."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer

AnyOptimizer = Optimizer | LightningOptimizer


class Snapshot:
    """Copies of some modules and of the optimizers' states.

    Args:
        modules: by name.

    Attributes:
        state: tensors and plain values, for a checkpoint; None before the first `take`.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.state: dict[str, Any] | None = None

    def take(self, step: int, optimizers: Sequence[AnyOptimizer]) -> None:
        """Copy the present state, which is that after `step` steps."""
        states = {name: copy.deepcopy(module.state_dict()) for name, module in self.modules.items()}
        moments = [copy.deepcopy(optimizer.state_dict()["state"]) for optimizer in optimizers]
        self.state = {**states, "optimizers": moments, "step": step}

    def restore(self, optimizers: Sequence[AnyOptimizer]) -> int:
        """Roll back, and return the step of the copy; learning rates stay where their schedules are."""
        assert self.state is not None
        for name, module in self.modules.items():
            module.load_state_dict(self.state[name])
        for optimizer, moments in zip(optimizers, self.state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer.state_dict() | {"state": copy.deepcopy(moments)})
        return self.state["step"]

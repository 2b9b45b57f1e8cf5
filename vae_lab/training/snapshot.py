"""In-memory snapshots of weights and optimizer states, for rolling back."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer

AnyOptimizer = Optimizer | LightningOptimizer


class Snapshot:
    """A copy of the weights of modules and of the states of optimizers.

    Args:
        modules: the modules by name.

    Attributes:
        state: tensors and plain values, for a checkpoint; None before the first `take`.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.modules = modules
        self.state: dict[str, Any] | None = None

    def take(self, step: int, optimizers: Sequence[AnyOptimizer]) -> None:
        """Copy the current weights and optimizer states, which are those after `step` steps."""
        states = {name: copy.deepcopy(module.state_dict()) for name, module in self.modules.items()}
        moments = [copy.deepcopy(optimizer.state_dict()["state"]) for optimizer in optimizers]
        self.state = {**states, "optimizers": moments, "step": step}

    def restore(self, optimizers: Sequence[AnyOptimizer]) -> int:
        """Restore the copied weights and optimizer states, but not learning rates; return the step of the copy."""
        assert self.state is not None
        for name, module in self.modules.items():
            module.load_state_dict(self.state[name])
        for optimizer, moments in zip(optimizers, self.state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer.state_dict() | {"state": copy.deepcopy(moments)})
        return self.state["step"]

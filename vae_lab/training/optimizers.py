"""Optimizers with parameter groups: no weight decay on biases and norms, Muon for matrices."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

NamedParameter = tuple[str, nn.Parameter]


def make_adamw(named_parameters: Iterable[NamedParameter], *, weight_decay: float, **settings: Any) -> AdamW:
    """Return AdamW with weight decay on the weights of layers alone.

    Args:
        named_parameters: as `nn.Module.named_parameters` gives them.
        weight_decay: of the weights; biases, norms' scales and learned numbers such as a variance have none.
        settings: other arguments of `torch.optim.AdamW`.
    """
    return AdamW(decay_groups(named_parameters, weight_decay), **settings)


def decay_groups(named_parameters: Iterable[NamedParameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters in groups: the weights of layers with this decay, all others without; none is empty."""
    weights, others = divided(named_parameters, is_weight)
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def divided(
    named_parameters: Iterable[NamedParameter], belongs: Callable[[str, Tensor], bool]
) -> tuple[list[NamedParameter], list[NamedParameter]]:
    """Return the parameters that belong, and the others, each in their order."""
    pairs = list(named_parameters)
    return [pair for pair in pairs if belongs(*pair)], [pair for pair in pairs if not belongs(*pair)]


def is_weight(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is the weight of a layer, as torch's modules call it; the scale of a norm is none."""
    return parameter.ndim >= 2 and "weight" in name


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is the weight of a linear layer."""
    return parameter.ndim == 2 and is_weight(name, parameter)


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` for the weights of linear layers and AdamW for all other parameters, as one optimizer.

    Muon makes the momentum of a matrix orthogonal before it steps (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/) and takes nothing but matrices. Convolutions go to AdamW.

    Args:
        named_parameters: as `nn.Module.named_parameters` gives them.
        lr: learning rate of both.
        weight_decay: of the weights of layers, in both.
        momentum: of Muon.
        nesterov: whether that momentum is Nesterov's.
        ns_steps: iterations of Newton and Schulz that make a step orthogonal.
        adjust_lr_fn: what scales Muon's steps; "match_rms_adamw" makes them as long as AdamW's, so that one learning
            rate serves both (Liu et al. 2025, https://arxiv.org/abs/2502.16982).
        betas: of AdamW.
        eps: of AdamW.
        fused: whether AdamW's step is one kernel.

    Raises:
        ValueError: if no layer is linear.
    """

    def __init__(
        self,
        named_parameters: Iterable[NamedParameter],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr_fn: str,
        betas: Sequence[float],
        eps: float,
        fused: bool,
    ) -> None:
        matrices, others = divided(named_parameters, is_matrix)
        if not matrices:
            raise ValueError("Muon moves the weights of linear layers, and the model has none; choose optimizer=adamw")
        muon = Muon(
            matrices,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        groups = decay_groups(others, weight_decay)
        adamw = AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, fused=fused) if groups else None  # pyright: ignore[reportArgumentType]
        self.parts = [muon] if adamw is None else [muon, adamw]
        all_groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(all_groups, {"lr": lr, "momentum": momentum})  # one_cycle looks there for what to cycle

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Step both and return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.state = self.state  # anew each time: loading a state replaces it, and the groups
            part.param_groups = [
                group for group in self.param_groups if ("ns_steps" in group) == isinstance(part, Muon)
            ]
            part.step()
        return loss

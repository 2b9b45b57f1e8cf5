"""Optimizers with parameter groups: no weight decay on biases and norms, Muon for matrices."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

NamedParameter = tuple[str, nn.Parameter]


def make_adamw(named_parameters: Iterable[NamedParameter], *, weight_decay: float, **settings: Any) -> AdamW:
    """Return an AdamW optimizer that applies weight decay to the weights of layers only.

    Args:
        named_parameters: parameters from `nn.Module.named_parameters`.
        weight_decay: weight decay of the weights; biases, scales of norms and scalars such as a variance have none.
        settings: other arguments of `torch.optim.AdamW`.
    """
    return AdamW(decay_groups(named_parameters, weight_decay), **settings)


def decay_groups(named_parameters: Iterable[NamedParameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return up to two parameter groups: weights of layers with `weight_decay`, and other parameters with 0."""
    weights, others = partition(named_parameters, is_weight)
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def partition(
    named_parameters: Iterable[NamedParameter], selects: Callable[[str, Tensor], bool]
) -> tuple[list[NamedParameter], list[NamedParameter]]:
    """Return two lists: the named parameters that `selects` accepts, and the others."""
    pairs = list(named_parameters)
    return [pair for pair in pairs if selects(*pair)], [pair for pair in pairs if not selects(*pair)]


def is_weight(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is a layer's weight: "weight" is in its name, and it has two or more dimensions."""
    return parameter.ndim >= 2 and "weight" in name


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter is the weight of a linear layer."""
    return parameter.ndim == 2 and is_weight(name, parameter)


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` for the weights of linear layers and AdamW for all other parameters, as one optimizer.

    Muon orthogonalises the momentum of a matrix before each step (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/). It accepts matrices only, so AdamW updates the convolutions.

    Args:
        named_parameters: parameters from `nn.Module.named_parameters`.
        lr: learning rate of both optimizers.
        weight_decay: weight decay of the weights of layers, in both optimizers.
        momentum: momentum of Muon.
        nesterov: whether Muon uses Nesterov momentum.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
        adjust_lr_fn: scaling of Muon's steps; "match_rms_adamw" gives them the RMS of AdamW's steps, so that one
            learning rate suits both (Liu et al. 2025, https://arxiv.org/abs/2502.16982).
        betas: betas of AdamW.
        eps: epsilon of AdamW.
        fused: whether AdamW uses its fused kernel.

    Raises:
        ValueError: if the model has no linear layer.
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
        matrices, others = partition(named_parameters, is_matrix)
        if not matrices:
            raise ValueError(
                "Muon updates the weights of linear layers, which this model lacks; choose optimizer=adamw"
            )
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
        super().__init__(all_groups, {"lr": lr, "momentum": momentum})  # OneCycleLR reads these defaults

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Step both optimizers, and return the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.state = self.state  # set at each step, because load_state_dict replaces the state and the groups
            part.param_groups = [
                group for group in self.param_groups if ("ns_steps" in group) == isinstance(part, Muon)
            ]
            part.step()
        return loss

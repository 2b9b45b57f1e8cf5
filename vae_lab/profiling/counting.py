"""Multiplications, parameters and memory of a training step, counted on fake tensors.

Fake tensors have a shape but no memory, so a step calls every operation without computing anything.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vae_lab.profiling.workload import Setting, Workload, phases


def multiplications(setting: Setting) -> dict[str, int]:
    """Return the number of multiply-accumulates per image, by name, of inference, generation and training.

    Inference is a forward pass through encoder and decoder, generation a forward pass through the decoder, and training
    a forward and a backward pass. Only matrix products and convolutions are counted.
    """
    with FakeTensorMode():
        workload = Workload(setting._replace(batch_size=1))
        image = workload.batch.image
        tasks: dict[str, Callable[[], object]] = {
            "inference": lambda: workload.given(image),
            "generation": workload.generate,
            "training": workload.train,
        }
        counts: dict[str, int] = {}
        for name, task in tasks.items():
            with FlopCounterMode(display=False) as counter:
                task()
            counts[name] = counter.get_total_flops() // 2
        return counts


class ModelSize(NamedTuple):
    """The number of a model's parameters, and the share of them in linear layers."""

    parameters: int
    linear_share: float


def count_parameters(setting: Setting) -> ModelSize:
    """Return the number of a model's parameters and the share of them in linear layers."""
    with FakeTensorMode():
        model = Workload(setting._replace(batch_size=1)).model
    total = sum(weight.numel() for weight in model.parameters())
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    linear = sum(weight.numel() for layer in layers for weight in layer.parameters())
    return ModelSize(total, linear / max(total, 1))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensor storages that are created while the mode is active and not yet freed.

    Attributes:
        live: bytes of living storages.
        peak: largest value of `live` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Call the operation and count the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        if key in self._known:  # a view, or the result of an in-place operation
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, size).atexit = False

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def predicted_peaks(setting: Setting) -> dict[str, int]:
    """Return the predicted peak memory in bytes of all tensors, in generation and in training.

    These are weights, gradients, optimizer moments and activations; buffers inside an operation are not counted.
    """
    peaks: dict[str, int] = {}
    with FakeTensorMode(), LiveBytes() as tensors:
        for name in phases(Workload(setting)):
            peaks[name] = tensors.peak
    return peaks

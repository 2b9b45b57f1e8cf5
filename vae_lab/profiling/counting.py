"""Operations, parameters and memory of a training step, counted without running it.

On fake tensors, which have a shape and no memory, every operation of a step is called, its multiplications are counted,
and the bytes of all tensors that are alive are added up.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vae_lab.profiling.workload import Setting, Workload, phases


def parameters(model: nn.Module) -> int:
    """Return the number of weights."""
    return sum(weight.numel() for weight in model.parameters())


def linear_share(model: nn.Module) -> float:
    """Return the share of the weights that lie in linear maps."""
    linear = sum(parameters(module) for module in model.modules() if isinstance(module, nn.Linear))
    return linear / max(parameters(model), 1)


def multiplications(setting: Setting) -> dict[str, int]:
    """Return the multiply-accumulates of an image's inference, generation and training, of matrices and convolutions.

    Inference is a forward pass through encoder and decoder, generation through the decoder alone, and training is
    forward and backward; element-wise operations and the optimizer are left out.
    """
    with fake():
        workload = Workload(setting._replace(batch_size=1))
        image = workload.batch.image
        tasks: dict[str, Callable[[], object]] = {
            "inference": lambda: workload.given(image),
            "generation": workload.generate,
            "training": workload.train,
        }
        return {name: _multiplications(task) for name, task in tasks.items()}


def _multiplications(task: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        task()
    return counter.get_total_flops() // 2


class Weight(NamedTuple):
    """How much there is of a model."""

    parameters: int
    linear_share: float


def weigh(setting: Setting) -> Weight:
    """Return the number of a model's parameters and the share of linear maps in it; nothing is computed."""
    with fake():
        model = Workload(setting._replace(batch_size=1)).model
        return Weight(parameters(model), linear_share(model))


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that come into being while it is on, and takes off those that go.

    Attributes:
        live: bytes alive now.
        peak: the most there were.
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
        """Call the operation and enter what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001
        if key in self._known:  # a view, or a result written in place
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, size).atexit = False

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def predicted_peaks(setting: Setting) -> dict[str, int]:
    """Return the bytes of all tensors at the worst moment of generation and of training.

    These are weights, gradients, moments, activations and what passes between operations; what an operation needs
    inside is left out.
    """
    peaks: dict[str, int] = {}
    with fake(), LiveBytes() as tensors:
        for name in phases(Workload(setting)):
            peaks[name] = tensors.peak
    return peaks


@contextmanager
def fake() -> Iterator[None]:
    """Give every tensor made inside a shape and no memory."""
    with FakeTensorMode():
        yield

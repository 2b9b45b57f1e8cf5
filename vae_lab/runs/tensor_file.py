"""Safe reading of files written by torch.save: no code runs, sizes are bounded."""

import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path) -> Any:  # noqa: ANN401
    """Return what a file holds, on the CPU.

    Raises:
        Exception: of many kinds, if it holds anything but tensors and plain values, or would unpack to more than it is.
    """
    import torch

    check_archive(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    require_real(stored)
    return stored


def require_storable(states: Mapping[str, object]) -> None:
    """Raise ValueError if a callback's state could be written to a checkpoint, and not be read back as data.

    Args:
        states: of the callbacks, by name.
    """
    for name, state in states.items():
        kind = unreadable_type(state)
        if kind is not None:
            raise ValueError(
                f"callbacks: {name.partition('{')[0]} keeps a {kind.__module__}.{kind.__qualname__} in its state, and a"
                " checkpoint holds tensors and plain values alone; let its state_dict return such."
            )


def unreadable_type(stored: object) -> type | None:
    """Return the type of something in a state that `read_tensors` would refuse; None if there is no such thing."""
    from torch import Size, Tensor, device, dtype, nn

    kind = type(stored)
    if kind in (dict, OrderedDict, Counter):
        parts: Iterable[object] = chain.from_iterable(stored.items())  # pyright: ignore[reportAttributeAccessIssue]
    elif kind in (list, tuple, set, Size):
        parts = stored  # pyright: ignore[reportAssignmentType]
    else:
        plain = (str, bytes, int, float, bool, complex, type(None), Tensor, nn.Parameter, device, dtype)
        return None if kind in plain else kind  # subclasses, as NumPy's float64 of float, are read by their own names
    return next(filter(None, map(unreadable_type, parts)), None)


def check_archive(path: Path) -> None:
    """Raise ValueError unless a file is an archive as torch.save writes it, which unpacks to no more than it is."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it unpacks to more than it is.")
        for entry in entries:
            # the one thing that torch's reader makes of a mere number: bytearray(10**12)
            if entry.filename.endswith("data.pkl") and b"bytearray" in archive.read(entry):
                raise ValueError("it holds a bytearray.")


def require_real(stored: object) -> None:
    """Raise ValueError if tensors have more numbers than their memory holds, which they repeat."""
    for tensor in tensors(stored):
        if tensor.is_meta or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise ValueError("it holds a tensor that repeats its memory, or has none.")


def tensors(stored: object) -> Iterator["Tensor"]:
    """Yield the tensors at any depth, each object once, also where containers hold one another."""
    from torch import Tensor

    due, seen = [stored], set[int]()
    while due:
        node = due.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Tensor):
            yield node
        elif isinstance(node, Mapping):
            due += node.values()
        elif isinstance(node, list | tuple):
            due += node

"""Safe reading of files written by torch.save: no code is executed, and sizes are bounded."""

import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a file written by torch.save, on the CPU.

    Raises:
        Exception: of various types, if the file holds anything but tensors and plain values, or would need more memory
            than its size.
    """
    import torch

    check_archive(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    require_real(stored)
    return stored


def require_storable(states: Mapping[str, object]) -> None:
    """Raise ValueError if a callback's state holds a type that `read_tensors` refuses; keys are callback names."""
    for name, state in states.items():
        kind = unreadable_type(state)
        if kind is not None:
            raise ValueError(
                f"callbacks: {name.partition('{')[0]} keeps a {kind.__module__}.{kind.__qualname__} in its state, but a"
                " checkpoint holds only tensors and plain values; return these from its state_dict."
            )


def unreadable_type(stored: object) -> type | None:
    """Return the first type in a nested value that `read_tensors` would refuse; None if it can read the value."""
    from torch import Size, Tensor, device, dtype, nn

    kind = type(stored)
    if kind in (dict, OrderedDict, Counter):
        parts: Iterable[object] = chain.from_iterable(stored.items())  # pyright: ignore[reportAttributeAccessIssue]
    elif kind in (list, tuple, set, Size):
        parts = stored  # pyright: ignore[reportAssignmentType]
    else:
        plain = (str, bytes, int, float, bool, complex, type(None), Tensor, nn.Parameter, device, dtype)
        return None if kind in plain else kind  # subclasses such as numpy.float64 are stored under their own names
    return next(filter(None, map(unreadable_type, parts)), None)


def check_archive(path: Path) -> None:
    """Raise ValueError unless a torch.save archive is uncompressed, no larger than its file, and without bytearrays."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it unpacks to more bytes than it has.")
        for entry in entries:
            # the only type that torch's reader allocates by a number alone, as in bytearray(10**12)
            if entry.filename.endswith("data.pkl") and b"bytearray" in archive.read(entry):
                raise ValueError("it holds a bytearray.")


def require_real(stored: object) -> None:
    """Raise ValueError if a tensor has more values than it stores in memory, as a meta or expanded tensor does."""
    for tensor in tensors(stored):
        if tensor.is_meta or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise ValueError("it holds a tensor that is larger than its memory.")


def tensors(stored: object) -> Iterator["Tensor"]:
    """Yield each tensor in nested mappings, lists and tuples once; cycles are allowed."""
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

"""Files that torch.save wrote, read without trust: no code runs, and what comes out is no larger than the file."""

import zipfile
from collections.abc import Iterator, Mapping
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

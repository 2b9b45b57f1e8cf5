"""Atomic writing of files, and checks of the paths in settings."""

import logging
import mimetypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vae_lab.errors import DataError

log = logging.getLogger(__name__)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there is renamed to `path` if the `with` block succeeds.

    Readers see the old file or the new one, even after a crash: the content is on disk before the rename.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def expand_wildcards(paths: Sequence[Path], setting: str) -> list[Path]:
    """Return the paths, each with a wildcard replaced by the existing paths that match it.

    A shell does not expand the wildcard in setting=a*.png, because no path begins with `setting=`.

    Raises:
        DataError: if a wildcard matches nothing.
    """
    found: list[Path] = []
    for path in paths:
        matches = [path]
        if has_magic(str(path)) and not os.path.lexists(path):  # a file name may contain brackets
            matches = [Path(name) for name in sorted(glob(str(path)))]  # noqa: PTH207 (Path.glob takes no absolute one)
            if not matches:
                raise DataError(f"{setting}={path} matches no file and no folder.")
            log.info("%s=%s matches %d paths", setting, path, len(matches))
        found += matches
    return found


def require_folder_name(out: Path, *accepted: str) -> None:
    """Raise ValueError if the setting `out=` names a file instead of a folder.

    A name such as x.jpg stands for a file, unless a folder has this name or its ending is in `accepted`.
    """
    kind, _ = mimetypes.MimeTypes().guess_type(out.name.lower(), strict=False)
    if kind is None or out.suffix.lower() in accepted or out.is_dir():
        return
    expected = " or ".join(["a folder", *(f"a {ending}" for ending in accepted)][::-1])
    raise ValueError(f"out={out} is the name of a file; name {expected}.")


def write_png(path: Path, image: UInt8[Tensor, "channels height width"]) -> None:
    """Write a grey or RGB image to the PNG file `path` atomically."""
    pixels = image.permute(1, 2, 0).numpy()
    with whole(path) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")


def _flush(path: Path) -> None:
    windows = os.name == "nt"
    if windows and path.is_dir():  # Windows opens no folders, and flushes only files that are open for writing
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

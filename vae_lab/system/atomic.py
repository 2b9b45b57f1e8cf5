"""Atomic writing of files."""

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
    """Give a temporary path beside `path`; once the block has ended well, it is put in place at once.

    Whoever looks sees the old file or the new one, also after a crash: the content is on disk before the name changes.
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
    """Write `content` to `path` at once."""
    with whole(path) as temporary:
        temporary.write_bytes(content)


def expand_wildcards(paths: Sequence[Path], setting: str) -> list[Path]:
    """Return the paths, with wildcards expanded: a shell does not expand those of setting=a*.png.

    Raises:
        DataError: if it matches nothing.
    """
    found: list[Path] = []
    for path in paths:
        matches = [path]
        if has_magic(str(path)) and not os.path.lexists(path):  # brackets may be a name's own
            matches = [Path(name) for name in sorted(glob(str(path)))]  # noqa: PTH207 (of any depth, from any place)
            if not matches:
                raise DataError(f"{setting}={path} matches no file and no folder.")
            log.info("%s=%s matches %d paths", setting, path, len(matches))
        found += matches
    return found


def require_folder_name(out: Path, *accepted: str) -> None:
    """Raise ValueError if `out=` is named like a file, as in x.jpg, and is neither a folder nor of an accepted kind.

    Args:
        out: what a setting names.
        accepted: endings of names that are no folder's, as ".png".
    """
    kind, _ = mimetypes.MimeTypes().guess_type(out.name.lower(), strict=False)
    if kind is None or out.suffix.lower() in accepted or out.is_dir():
        return
    expected = " or ".join(["a folder", *(f"a {ending}" for ending in accepted)][::-1])
    raise ValueError(f"out={out} is the name of a file, and {expected} is written; name such.")


def write_png(path: Path, image: UInt8[Tensor, "channels height width"]) -> None:
    """Write a grey or colour image to `path` at once."""
    pixels = image.permute(1, 2, 0).numpy()
    with whole(path) as temporary:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(temporary, format="PNG")


def _flush(path: Path) -> None:
    windows = os.name == "nt"
    if windows and path.is_dir():  # it opens no folders, and flushes no file that is open for reading alone
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Folders that are written completely or not at all."""

import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 24 * 3600
"""Leftovers of killed processes are removed at this age; younger ones may belong to a process that lives."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a fresh folder beside `path`; once the block has ended well, it takes that place at once.

    If another process has put a folder there meanwhile, that one stays and ours is dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        yield folder
        try:
            os.replace(folder, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Make a folder and those around it; if the block fails, those that were made are removed, as far as empty."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        raise


def _remove_stale(path: Path) -> None:
    """Remove what killed processes left beside `path` on their way to it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover)

"""Creation of folders that are either complete or absent."""

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
"""Age at which leftovers of killed processes are removed; younger ones may belong to a running process."""


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it is renamed to `path` if the `with` block succeeds, else deleted.

    If another process has created a folder at `path` meanwhile, that folder stays and the temporary one is removed.
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
    """Create a folder and its missing parents; if the `with` block fails, delete those that are still empty."""
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
    """Delete temporary folders for `path` that killed processes left more than `STALE_SECONDS` ago."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover)

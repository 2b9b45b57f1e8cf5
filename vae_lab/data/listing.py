"""Which files a folder of images holds, whatever else lies, loops or hangs in it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """A regular file: its path relative to the root, its size in bytes and its time of change in nanoseconds."""

    path: str
    nbytes: int
    mtime: int


class Bad(NamedTuple):
    """A file or folder that is of no use, by its path relative to the root, and why."""

    path: str
    reason: str


class Listing(NamedTuple):
    """What a folder holds, sorted by the bytes of the paths, an order that is the same on every filesystem."""

    files: list[Found]
    unreadable: list[Bad]
    nfolders: int


def list_files(root: Path) -> Listing:
    """Return every regular file under a folder.

    Names that begin with a dot are passed over, and so are pipes, sockets, devices and dead links, none of which is
    ever opened. Links are followed, but every real folder and every real file counts once, so loops end.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    files: list[Found] = []
    unreadable: list[Bad] = []
    seen_files: set[str] = set()
    seen_folders: set[str] = set()
    waiting = [Path()]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(root / folder)
        if real in seen_folders:
            continue
        seen_folders.add(real)
        try:
            entries = _entries(root / folder)
        except OSError as error:
            if folder == Path():
                raise
            unreadable.append(Bad(str(folder), error.strerror or str(error)))
            continue
        waiting.extend(folder / entry.name for entry in reversed(entries) if entry.is_dir())
        files.extend(_regular_files(folder, real, entries, seen_files))
    files.sort(key=lambda file: os.fsencode(file.path))
    unreadable.sort(key=lambda bad: os.fsencode(bad.path))
    return Listing(files, unreadable, len(seen_folders) - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted, without hidden names and links that lead nowhere."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".") and _leads_somewhere(entry)]
    return sorted(shown, key=lambda entry: os.fsencode(entry.name))


def _leads_somewhere(entry: os.DirEntry[str]) -> bool:
    try:
        entry.stat()
    except OSError:  # a dead link, a link to itself, or a file removed meanwhile
        return False
    return True


def _regular_files(folder: Path, real: str, entries: list[os.DirEntry[str]], seen: set[str]) -> Iterator[Found]:
    """Yield the regular files among the entries of a folder whose real path is not among those seen; add it to them."""
    for entry in entries:
        if entry.is_file():
            target = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
            if target not in seen:
                seen.add(target)
                stat = entry.stat()
                yield Found(str(folder / entry.name), stat.st_size, stat.st_mtime_ns)


def printable(path: str) -> str:
    """Return a path as text that any terminal or file takes: what is no UTF-8 or cannot be shown is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

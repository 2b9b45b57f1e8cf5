"""Listing of the files in a folder that may be images; all others are counted by kind."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vae_lab.data.files.own_output import (
    GRIDS,
    MANIFEST,
    MULTIRUN,
    RUN_ENTRIES,
    RUN_PARTS,
    RUNS,
    SAMPLES,
    SWEEPS,
    TABLES,
    own_files,
    own_folder,
)
from vae_lab.errors import DataError

log = logging.getLogger(__name__)

DEAD = "broken links"
TWICE = "files and folders reached twice"
HIDDEN = "hidden names"
CLUTTER = "leftovers of other programs"
ODD = "pipes, sockets and devices"

CLUTTER_FOLDERS = frozenset({
    "#recycle", "$recycle.bin", "@eadir", "__macosx", "__pycache__", "lost+found", "system volume information",
})  # fmt: skip
CLUTTER_FILES = frozenset({"desktop.ini", "ehthumbs.db", "icon\r", "thumbs.db"})
"""Names, in lower case, of entries that systems and archivers leave in folders; they hold no further pictures."""

NO_LOSS = frozenset({TWICE, HIDDEN, CLUTTER, ODD, TABLES, RUN_PARTS, GRIDS})
"""Kinds of entries that are passed over without a warning."""


class Found(NamedTuple):
    """A regular file: its path relative to the root, size in bytes, and modification time in nanoseconds."""

    path: str
    nbytes: int
    mtime: int


class Bad(NamedTuple):
    """An unusable file or folder: its path relative to the root, and the reason."""

    path: str
    reason: str


class PassedOver(NamedTuple):
    """The skipped entries of one kind: their number, and the path of the first one as printable text."""

    kind: str
    count: int
    first: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.count:,} ({'first ' if self.count > 1 else ''}{self.first})"


class Listing(NamedTuple):
    """The files and skipped entries of a folder, sorted by path.

    The order is that of the bytes of the paths, which is the same on every filesystem.

    Attributes:
        files: files that may be images.
        unreadable: folders that could not be read.
        nfolders: number of folders below the root that were searched.
        passed: entries that were not listed, by kind.
    """

    files: list[Found]
    unreadable: list[Bad]
    nfolders: int
    passed: list[PassedOver]

    def count(self, kind: str) -> int:
        """Return the number of skipped entries of a kind."""
        return sum(passed.count for passed in self.passed if passed.kind == kind)


def list_files(root: Path) -> Listing:
    """Return the listing of a folder and its subfolders: files that may be images, and skipped entries by kind.

    Hidden names, leftovers of other programs, vae_lab's own output, pipes, sockets, devices and broken links are
    counted but never opened. Links are followed, and each real folder and file is listed once, so loops end.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    walk = _Walk(root)
    waiting = [Path()]
    while waiting:
        waiting.extend(reversed(walk.visit(waiting.pop())))
    walk.files.sort(key=lambda file: os.fsencode(file.path))
    walk.unreadable.sort(key=lambda bad: os.fsencode(bad.path))
    passed = [PassedOver(kind, len(paths), _shown(root, kind, paths[0])) for kind, paths in walk.passed.items()]
    return Listing(walk.files, walk.unreadable, len(walk.seen_folders) - 1, sorted(passed))


def report_passed(root: Path, listing: Listing) -> None:
    """Log the skipped entries; the line is a warning if they may hold wanted images.

    Raises:
        DataError: if there are more broken links than files.
    """
    dead = listing.count(DEAD)
    if dead > len(listing.files):
        (links,) = (passed for passed in listing.passed if passed.kind == DEAD)
        raise DataError(
            f"{printable(str(root))} holds {dead:,} broken links (first {links.first}) and"
            f" {len(listing.files) or 'no'} files; mount or download the targets of the links, or remove the links."
        )
    if listing.passed:
        missed = any(passed.kind not in NO_LOSS for passed in listing.passed)
        level = logging.WARNING if missed else logging.INFO
        log.log(level, "passed over in %s: %s", printable(str(root)), "; ".join(map(str, listing.passed)))


class _Walk:
    """A recursive walk through a folder; it collects the files, skipped entries and unreadable folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[Found] = []
        self.unreadable: list[Bad] = []
        self.passed: dict[str, list[Path]] = {}
        self.seen_files: set[str] = set()
        self.seen_folders: set[str] = set()

    def visit(self, folder: Path) -> list[Path]:
        """Collect the files directly in a folder, and return the paths of its subfolders.

        Raises:
            OSError: if it is the root and cannot be read.
        """
        real = os.path.realpath(self.root / folder)
        if real in self.seen_folders:
            self.pass_over(TWICE, folder)
            return []
        self.seen_folders.add(real)
        try:
            with os.scandir(self.root / folder) as found:
                entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            if folder == Path():
                raise
            self.unreadable.append(Bad(str(folder), error.strerror or str(error)))
            return []
        names = {entry.name for entry in entries}
        kind = own_folder(Path(real), names)
        if kind and folder != Path():
            self.pass_over(kind, folder)
            return []
        own = own_files(self.root / folder, names) | _own_entries(kind)
        shown = [entry for entry in entries if not self.is_passed(folder, entry, own)]
        self.files.extend(self.regular_files(folder, real, shown))
        return [folder / entry.name for entry in shown if entry.is_dir()]

    def is_passed(self, folder: Path, entry: os.DirEntry[str], own: dict[str, str]) -> bool:
        """Return whether an entry is to be skipped; if so, record it."""
        kind = own.get(entry.name) or _kind(entry)
        if kind:
            self.pass_over(kind, folder / entry.name)
        return kind is not None

    def regular_files(self, folder: Path, real: str, entries: list[os.DirEntry[str]]) -> Iterator[Found]:
        """Yield the regular files among the entries of a folder, each real file only once in a walk."""
        prefix = "" if folder == Path() else f"{folder}/"
        for entry in entries:
            if entry.is_file():
                target = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}/{entry.name}"
                if target in self.seen_files:
                    self.pass_over(TWICE, folder / entry.name)
                    continue
                self.seen_files.add(target)
                stat = entry.stat()
                yield Found(prefix + entry.name, stat.st_size, stat.st_mtime_ns)

    def pass_over(self, kind: str, path: Path) -> None:
        """Record an entry as skipped."""
        self.passed.setdefault(kind, []).append(path)


def _own_entries(kind: str | None) -> dict[str, str]:
    """Return the names of vae_lab's own entries in a folder of kind `kind`, each with the kind it is counted under."""
    if kind == RUNS:
        return dict.fromkeys(RUN_ENTRIES, RUN_PARTS)
    if kind == SWEEPS:
        return {MULTIRUN: RUN_PARTS}
    return dict.fromkeys(("grid.png", MANIFEST), GRIDS) if kind == SAMPLES else {}


def _kind(entry: os.DirEntry[str]) -> str | None:
    """Return the kind under which an entry is skipped (such as "hidden names"), or None if it is to be listed."""
    if entry.name.startswith("."):
        return HIDDEN
    if entry.name.lower() in CLUTTER_FOLDERS | CLUTTER_FILES:
        is_folder = entry.is_dir()
        if entry.name.lower() in (CLUTTER_FOLDERS if is_folder else CLUTTER_FILES):
            return CLUTTER
    if not os.path.exists(entry.path):  # noqa: PTH110 (Path.exists raises for some links)
        return DEAD
    return None if entry.is_file() or entry.is_dir() else ODD


def _shown(root: Path, kind: str, path: Path) -> str:
    """Return a path as printable text; a broken link is followed by " -> " and its target."""
    if kind != DEAD:
        return printable(str(path))
    try:
        return printable(f"{path} -> {os.readlink(root / path)}")  # noqa: PTH115 (Path.readlink makes a Path of it)
    except OSError:
        return printable(str(path))


def printable(path: str) -> str:
    """Return a path as printable text, with invalid UTF-8 and unprintable characters escaped."""
    if path.isprintable():
        return path
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

"""The files that a setting such as images= names: those of folders, single files, or several of both."""

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vae_lab.data.files.listing import Bad, Found, list_files, printable, report_passed
from vae_lab.errors import DataError
from vae_lab.system.folders import expanded

log = logging.getLogger(__name__)


def paths(value: object, setting: str) -> list[Path]:
    """Return the value of a setting, one path or several, as a list of paths.

    Raises:
        ValueError: if the setting names no path.
    """
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(one, str | Path | int) and str(one) for one in values):
        raise ValueError(f"{setting}={value} names no path; name a folder, a file, or several as [<path>,<path>].")
    return [expanded(one) for one in values]


class Place(NamedTuple):
    """A folder, the files to score below it, and the entries that could not be listed, with reasons."""

    root: Path
    files: list[Found]
    unreadable: list[Bad]


def find(path: Path, setting: str = "images") -> Place:
    """Return the file at a path, or the files below it if it is a folder.

    Messages name the setting `setting`.

    Raises:
        DataError: if there is no file, or the path cannot be read.
    """
    path = path.absolute()
    remedy = f"name a folder or a file with {setting}="
    try:
        if path.is_dir():
            listing = list_files(path)
            report_passed(path, listing)
            place = Place(path, listing.files, listing.unreadable)
        else:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
                raise DataError(f"{printable(str(path))} is neither a folder nor a regular file; {remedy}.")
            place = Place(path.parent, [Found(path.name, status.st_size, status.st_mtime_ns)], [])
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}); {remedy}.") from error
    if not place.files and not place.unreadable:
        raise DataError(f"{printable(str(path))} holds no file; {remedy}.")
    return place


def find_all(paths: Sequence[Path], setting: str = "images") -> Place:
    """Return the files at or below several paths, each file once, with paths relative to the common folder."""
    places = [find(path, setting) for path in paths]
    if len(places) == 1:
        return places[0]
    root = Path(os.path.commonpath([place.root for place in places]))
    files: dict[str, Found] = {}
    unreadable: dict[str, Bad] = {}
    for place in places:
        for file in place.files:
            here = file._replace(path=os.path.relpath(place.root / file.path, root))
            files.setdefault(os.path.realpath(root / here.path), here)
        for bad in place.unreadable:
            here = bad._replace(path=os.path.relpath(place.root / bad.path, root))
            unreadable.setdefault(os.path.realpath(root / here.path), here)
    ntwice = sum(len(place.files) for place in places) - len(files)
    if ntwice:
        log.info("skipped %d files that %s= names twice", ntwice, setting)
    return Place(root, sorted(files.values(), key=lambda file: os.fsencode(file.path)), list(unreadable.values()))


def exclude_files(place: Place, left_out: set[str]) -> Place:
    """Return `place` without the files whose real paths are in `left_out`."""
    known = {(status.st_size, status.st_mtime_ns) for status in map(_status, left_out) if status is not None}
    kept = [
        file
        for file in place.files
        if (file.nbytes, file.mtime) not in known or real_path(place, file) not in left_out  # real paths take long
    ]
    return place._replace(files=kept)


def _status(path: str) -> os.stat_result | None:
    """Return the status of a file, or None if it cannot be had."""
    try:
        return Path(path).stat()
    except OSError:
        return None


def real_path(place: Place, file: Found) -> str:
    """Return the absolute path of a file, with symbolic links resolved."""
    return os.path.realpath(place.root / file.path)

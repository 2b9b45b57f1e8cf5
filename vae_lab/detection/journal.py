"""A journal of scored files, from which an interrupted job continues."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vae_lab.data.files.listing import Found
from vae_lab.system.atomic import write_whole


class Row(NamedTuple):
    """What became of one file: numbers by name, the first its "score", or the reason why there are none."""

    path: str
    values: dict[str, float]
    reason: str


def resumed(journal: Path, key: str, files: Sequence[Found]) -> dict[str, Row]:
    """Return by path the rows of those files that have not changed since, and begin the journal anew with them alone.

    A line that a kill cut short does not stay: what is appended to it would be lost with it.

    Args:
        journal: where it lies, or will.
        key: what the rows depend on beside the files; nothing is kept of a journal with another one.
        files: those that are there now.
    """
    present = set(files)
    kept = [(file, row) for file, row in read_journal(journal, key) if file in present]
    write_whole(journal, "".join([json.dumps({"key": key}) + "\n", *map(_line, kept)]).encode("ascii"))
    return {row.path: row for _, row in kept}


def append(journal: Path, rows: Sequence[tuple[Found, Row]]) -> None:
    """Add rows to the journal, on the disk when this returns."""
    with journal.open("a", encoding="ascii") as file:
        file.writelines(map(_line, rows))
        file.flush()
        os.fsync(file.fileno())


def read_journal(journal: Path, key: str) -> Iterator[tuple[Found, Row]]:
    """Yield each file as it was when scored, and its row, of a journal with this key; torn lines are left out."""
    lines = journal.read_text(encoding="ascii", errors="replace").splitlines() if journal.is_file() else []
    if not lines or lines[0] != json.dumps({"key": key}):
        return
    for line in lines[1:]:
        try:
            path, nbytes, mtime, values, reason = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        yield Found(path, nbytes, mtime), Row(path, values, reason)


def _line(scored: tuple[Found, Row]) -> str:
    file, row = scored
    return json.dumps([*file, row.values, row.reason]) + "\n"

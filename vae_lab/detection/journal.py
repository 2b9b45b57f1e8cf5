"""A journal of scored files, from which an interrupted command resumes."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vae_lab.data.files.listing import Found
from vae_lab.system.atomic import write_whole


class Row(NamedTuple):
    """The result for one file: values by name, "score" first, or the reason why the file has no score."""

    path: str
    values: dict[str, float]
    reason: str


def resumed(journal: Path, key: str, files: Sequence[Found]) -> dict[str, Row]:
    """Return the rows of the files that have not changed, by path, and delete all other rows from the journal.

    A journal with another key is discarded. Rewriting removes a line that a kill cut short, so that the next line is
    not appended to it.
    """
    present = set(files)
    kept = [(file, row) for file, row in read_journal(journal, key) if file in present]
    write_whole(journal, "".join([json.dumps({"key": key}) + "\n", *map(_line, kept)]).encode("ascii"))
    return {row.path: row for _, row in kept}


def append(journal: Path, rows: Sequence[tuple[Found, Row]]) -> None:
    """Append rows to the journal and flush them to disk."""
    with journal.open("a", encoding="ascii") as file:
        file.writelines(map(_line, rows))
        file.flush()
        os.fsync(file.fileno())


def read_journal(journal: Path, key: str) -> Iterator[tuple[Found, Row]]:
    """Yield each scored file with its row, or nothing if the key of the journal is not `key`.

    A file is described as it was when scored. Incomplete lines are skipped.
    """
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

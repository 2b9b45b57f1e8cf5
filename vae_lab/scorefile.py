"""Files scored one block after the other, with a journal: an interrupted job goes on where it stopped."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vae_lab.data.decoded import Rules, decode_files
from vae_lab.data.listing import Bad, Found, list_files
from vae_lab.detection import Columns, Detector, Judged
from vae_lab.errors import DataError
from vae_lab.files import write_whole
from vae_lab.progress import track

BLOCK = 256
"""Files between two entries in the journal."""


class Row(NamedTuple):
    """What became of one file: numbers by name, the first its "score", or the reason why there are none."""

    path: str
    values: dict[str, float]
    reason: str


class Place(NamedTuple):
    """A folder and the files in it, or one file in its folder; what could not be listed has its reason."""

    root: Path
    files: list[Found]
    unreadable: list[Bad]


def find(path: Path) -> Place:
    """Return the files at a path.

    Raises:
        DataError: if there is nothing, or it cannot be read.
    """
    path = path.absolute()
    try:
        if path.is_dir():
            listing = list_files(path)
            place = Place(path, listing.files, listing.unreadable)
        else:
            status = path.stat()
            place = Place(path.parent, [Found(path.name, status.st_size, status.st_mtime_ns)], [])
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name a folder or a file with images=.") from error
    if not place.files and not place.unreadable:
        raise DataError(f"{path} holds no file; name a folder or a file with images=.")
    return place


def score_files(detector: Detector, place: Place, rules: Rules, journal: Path, key: str) -> list[Row]:
    """Return a row for each file, in the order of their names.

    Args:
        detector: scores the images.
        place: the files.
        rules: how they are decoded.
        journal: where rows are kept until all are done.
        key: what the scores depend on; a journal with another key is begun anew.
    """
    done = {row.path: row for row in read_journal(journal, key)}
    if not done:
        write_whole(journal, (json.dumps({"key": key}) + "\n").encode())
    waiting = [file for file in place.files if file.path not in done]
    for block in track([waiting[i : i + BLOCK] for i in range(0, len(waiting), BLOCK)], "scoring"):
        rows = score_block(detector, place.root, block, rules)
        append(journal, rows)
        done |= {row.path: row for row in rows}
    done |= {bad.path: Row(bad.path, {}, bad.reason) for bad in place.unreadable}
    return [done[path] for path in sorted(done, key=os.fsencode)]


def score_block(detector: Detector, root: Path, files: Sequence[Found], rules: Rules) -> list[Row]:
    """Return the rows of a few files."""
    decoded = decode_files(root, files, rules, lambda _: None)
    reasons = {bad.path: bad.reason for bad in decoded.bad}
    good = [file.path for file in files if file.path not in reasons]
    described = {name: values.tolist() for name, values in detector.describe(decoded.pixels).items()}
    rows = [Row(path, {name: values[i] for name, values in described.items()}, "") for i, path in enumerate(good)]
    return rows + [Row(path, {}, reason) for path, reason in reasons.items()]


def append(journal: Path, rows: list[Row]) -> None:
    """Add rows to the journal, on the disk when this returns."""
    with journal.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_journal(journal: Path, key: str) -> Iterator[Row]:
    """Yield the rows of a journal with this key; a last line that a kill cut short is passed over."""
    lines = journal.read_text().splitlines() if journal.is_file() else []
    for i, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if i == 0:
            if entry != {"key": key}:
                return
        else:
            yield Row(*entry)


def write_table(out: Path, rows: list[Row], judged: Judged) -> None:
    """Write the rows as CSV: path, score, p_value, flagged, details, reason; `judged` is of those with a score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "score", "p_value", "flagged", *judged.details, "reason"])
    columns = [judged.scores, judged.p_values, judged.flagged.long(), *judged.details.values()]
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    for row in rows:
        cells = [f"{number:.6g}" for number in next(numbers)] if row.values else [""] * len(columns)
        writer.writerow([row.path, *cells, row.reason])
    write_whole(out, text.getvalue().encode())


def columns(rows: list[Row]) -> Columns:
    """Return the numbers of rows that all have them, by name."""
    names = rows[0].values if rows else ["score"]
    return {name: torch.tensor([row.values[name] for row in rows], dtype=torch.float64) for name in names}


def read_truth(path: Path) -> dict[str, bool]:
    """Return which images are anomalous, from a CSV with the columns path and anomalous (0 or 1).

    Raises:
        DataError: if it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {row["path"]: ("0", "1").index(row["anomalous"].strip()) == 1 for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise DataError(f"truth={path} is no CSV with the columns path and anomalous, which is 0 or 1.") from error

"""The table of scores: files are scored in blocks and written as CSV."""

import csv
import io
import logging
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vae_lab.data.files.cache import Decoded, Rules, decode_files
from vae_lab.data.files.listing import Bad, Found, list_files, printable, report_passed
from vae_lab.data.files.own_output import TABLE_COLUMNS, begins_as_table, table_names
from vae_lab.data.files.source import Source
from vae_lab.data.survey import survey_sources
from vae_lab.detection.detector import SEEN, Columns, Detections, Detector
from vae_lab.detection.journal import Row, append, resumed
from vae_lab.errors import DataError
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import expanded
from vae_lab.system.progress import track
from vae_lab.system.quoting import literal

log = logging.getLogger(__name__)

BLOCK = 256
"""Files between two entries in the journal."""


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
    return place._replace(files=[file for file in place.files if real_path(place, file) not in left_out])


def real_path(place: Place, file: Found) -> str:
    """Return the absolute path of a file, with symbolic links resolved."""
    return os.path.realpath(place.root / file.path)


def score_files(detector: Detector, place: Place, rules: Rules, journal: Path, key: str) -> list[Row]:
    """Return the table row of each file, with its scores or the reason why it has none, sorted by path.

    The journal keeps the rows of an interrupted call; `key` identifies everything but the files that the scores depend
    on.
    """
    done = resumed(journal, key, place.files)
    waiting = [file for file in place.files if file.path not in done]
    sources: list[Source] = []
    for block in track([waiting[i : i + BLOCK] for i in range(0, len(waiting), BLOCK)], "scoring"):
        decoded = decode_files(place.root, block, rules, lambda _: None)
        rows = score_block(detector, block, decoded)
        append(journal, [(file, rows[file.path]) for file in block])
        done |= rows
        sources += decoded.sources
    if sources:
        survey_sources(sources, len(waiting) - len(sources)).log_lines()
    done |= {bad.path: Row(bad.path, {}, bad.reason) for bad in place.unreadable}
    return [done[path] for path in sorted(done, key=os.fsencode)]


def score_block(detector: Detector, files: Sequence[Found], decoded: Decoded) -> dict[str, Row]:
    """Return the table row of each file in a block of decoded files, by path."""
    rows = {bad.path: Row(bad.path, {}, bad.reason) for bad in decoded.bad}
    good = [file.path for file in files if file.path not in rows]
    described = {name: values.tolist() for name, values in detector.examine(decoded.pixels).items()} if good else {}
    for i, path in enumerate(good):
        values = {name: numbers[i] for name, numbers in described.items()}
        failed = math.isnan(values["score"])
        rows[path] = Row(path, {}, "the model gives no finite score") if failed else Row(path, values, "")
    return rows


def scored(rows: list[Row]) -> list[Row]:
    """Return the rows that have a score."""
    return [row for row in rows if row.values]


def columns(rows: list[Row]) -> Columns:
    """Return the table columns of scored rows by name, each a tensor with one value per row."""
    names = rows[0].values if rows else ["score"]
    return {name: torch.tensor([row.values[name] for row in rows], dtype=torch.float64) for name in names}


def table_paths(out: object, ntables: int, *, force: bool) -> list[Path]:
    """Return the path `out` of the table of scores, and a second path beside it if `ntables` is 2.

    Only `force` overwrites a file that is not a table of scores.

    Raises:
        ValueError: if `out` does not end with .csv, or is another file or a folder.
    """
    path = expanded(out)
    if path.suffix.lower() != ".csv":
        raise ValueError(f"out={'' if out is None else out} must name a .csv file; figures are written beside it.")
    tables = [path, path.with_name(f"{path.stem}-truth{path.suffix}")][:ntables]
    for one in tables:
        if one.exists() and not one.is_file():
            raise ValueError(f"out={one} exists and is not a file; choose another name.")
        if not force and one.is_file() and one.stat().st_size > 0 and not begins_as_table(one):
            raise ValueError(f"{one} is not a table of detect; choose another out=, or force=true to overwrite it.")
    return tables


def output_paths(table: Path) -> set[str]:
    """Return the real paths of all files that `detect` writes for a table of scores.

    They are not images to score.
    """
    return {os.path.realpath(table.with_name(name)) for name in table_names(table)}


def write_table(out: Path, rows: list[Row], judged: Detections) -> None:
    """Write the rows as CSV: path, score, p_value, flagged, details and reason.

    `judged` holds the results of the rows that have a score.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*TABLE_COLUMNS, *judged.details, "reason"])
    columns = {"score": judged.scores, "p_value": judged.p_values, "flagged": judged.flagged.long()} | judged.details
    numbers = zip(*(column.tolist() for column in columns.values()), strict=True)
    for row in rows:
        values = zip(columns, next(numbers), strict=True) if row.values else ()
        # nine digits distinguish any two float32 numbers
        cells = [SEEN[int(x)] if name == "seen" else f"{x:.9g}" for name, x in values] or [""] * len(columns)
        writer.writerow([cell(row.path), *cells, literal(printable(row.reason))])
    write_whole(out, text.getvalue().encode())


def cell(path: str) -> str:
    """Return a path escaped for a CSV cell: one line of UTF-8 text that a spreadsheet does not take for a formula.

    Bytes that are not printable UTF-8 are escaped with backslashes, and the path's own backslashes are doubled. Text
    that looks like a formula gets an apostrophe in front, and a leading apostrophe of the path is doubled.
    """
    plain = literal(printable(path.replace("\\", "\\\\")))
    return f"'{plain}" if path.startswith("'") else plain

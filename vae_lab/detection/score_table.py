"""The table of scores: files scored block by block and written as CSV."""

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
from vae_lab.reporting.tables import literal
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import expanded
from vae_lab.system.progress import track

log = logging.getLogger(__name__)

BLOCK = 256
"""Files between two entries in the journal."""


class Place(NamedTuple):
    """A folder and the files in it, or one file in its folder; what could not be listed has its reason."""

    root: Path
    files: list[Found]
    unreadable: list[Bad]


def find(path: Path, setting: str = "images") -> Place:
    """Return the files at a path, which a setting names.

    Raises:
        DataError: if there is nothing, or it cannot be read.
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
            if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
                raise DataError(f"{printable(str(path))} is neither a folder nor a regular file; {remedy}.")
            place = Place(path.parent, [Found(path.name, status.st_size, status.st_mtime_ns)], [])
    except OSError as error:
        raise DataError(f"{printable(str(path))} cannot be read ({error.strerror}); {remedy}.") from error
    if not place.files and not place.unreadable:
        raise DataError(f"{printable(str(path))} holds no file; {remedy}.")
    return place


def find_all(paths: Sequence[Path], setting: str = "images") -> Place:
    """Return the files at several paths, named from the folder that holds them all; each counts once."""
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
        log.info("passed over %d files that %s= names twice", ntwice, setting)
    return Place(root, sorted(files.values(), key=lambda file: os.fsencode(file.path)), list(unreadable.values()))


def without(place: Place, left_out: set[str]) -> Place:
    """Return a place without the files of these real paths."""
    return place._replace(files=[file for file in place.files if real(place, file) not in left_out])


def real(place: Place, file: Found) -> str:
    """Return where a file really lies, links followed."""
    return os.path.realpath(place.root / file.path)


def score_files(detector: Detector, place: Place, rules: Rules, journal: Path, key: str) -> list[Row]:
    """Return a row for each file, in the order of their names.

    Args:
        detector: scores the images.
        place: the files.
        rules: how they are decoded.
        journal: where rows are kept until all are done.
        key: what the scores depend on beside the files; a journal with another key is begun anew.
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
    """Return the rows of a few files, which have been decoded, by path."""
    rows = {bad.path: Row(bad.path, {}, bad.reason) for bad in decoded.bad}
    good = [file.path for file in files if file.path not in rows]
    described = {name: values.tolist() for name, values in detector.examine(decoded.pixels).items()} if good else {}
    for i, path in enumerate(good):
        values = {name: numbers[i] for name, numbers in described.items()}
        failed = math.isnan(values["score"])
        rows[path] = Row(path, {}, "the model gives it no finite score") if failed else Row(path, values, "")
    return rows


def scored(rows: list[Row]) -> list[Row]:
    """Return the rows that have numbers."""
    return [row for row in rows if row.values]


def columns(rows: list[Row]) -> Columns:
    """Return the numbers of rows that all have them, by name."""
    names = rows[0].values if rows else ["score"]
    return {name: torch.tensor([row.values[name] for row in rows], dtype=torch.float64) for name in names}


def table_paths(out: object, ntables: int, *, force: bool) -> list[Path]:
    """Return where one table is to lie, or two; what is no such table is not written over unless by `force`.

    Raises:
        ValueError: if `out` is no .csv, or something else lies there.
    """
    path = expanded(out)
    if path.suffix.lower() != ".csv":
        raise ValueError(f"out={'' if out is None else out} must name a .csv; pictures of that name lie beside it.")
    tables = [path, path.with_name(f"{path.stem}-truth{path.suffix}")][:ntables]
    for one in tables:
        if one.exists() and not one.is_file():
            raise ValueError(f"out={one} is there already and no file; choose another name.")
        if not force and one.is_file() and not is_ours(one):
            raise ValueError(f"{one} is no table of detect's; choose another out=, or force=true to write over it.")
    return tables


def is_ours(path: Path) -> bool:
    """Return whether a file begins like a table of scores, or holds nothing that could be lost."""
    return begins_as_table(path) or path.stat().st_size == 0


def written(table: Path) -> set[str]:
    """Return the real paths of all files that belong to a table, which are none of the images to be judged."""
    return {os.path.realpath(table.with_name(name)) for name in table_names(table)}


def write_table(out: Path, rows: list[Row], judged: Detections) -> None:
    """Write the rows as CSV: path, score, p_value, flagged, details, reason; `judged` is of those with a score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*TABLE_COLUMNS, *judged.details, "reason"])
    columns = {"score": judged.scores, "p_value": judged.p_values, "flagged": judged.flagged.long()} | judged.details
    numbers = zip(*(column.tolist() for column in columns.values()), strict=True)
    for row in rows:
        values = zip(columns, next(numbers), strict=True) if row.values else ()
        # nine digits tell any two numbers of single precision apart
        cells = [SEEN[int(x)] if name == "seen" else f"{x:.9g}" for name, x in values] or [""] * len(columns)
        writer.writerow([cell(row.path), *cells, literal(printable(row.reason))])
    write_whole(out, text.getvalue().encode())


def cell(path: str) -> str:
    """Return a path as text for a CSV in UTF-8, in one line, that a spreadsheet takes for no formula.

    What is no UTF-8 or cannot be shown is escaped with a backslash, so a path's own backslash is doubled; likewise the
    apostrophe before what looks like a formula.
    """
    plain = literal(printable(path.replace("\\", "\\\\")))
    return f"'{plain}" if path.startswith("'") else plain

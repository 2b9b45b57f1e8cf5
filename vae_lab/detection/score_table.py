"""The table of scores: files are scored in blocks and written as CSV."""

import csv
import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from vae_lab.data.files.cache import Decoded, Rules, decode_blocks
from vae_lab.data.files.listing import Found, printable
from vae_lab.data.files.own_output import TABLE_COLUMNS, begins_as_table, table_names
from vae_lab.data.files.places import Place
from vae_lab.data.files.source import Source
from vae_lab.data.survey import survey_sources
from vae_lab.detection.detector import SEEN, Columns, Detections, Detector
from vae_lab.detection.journal import Row, append, resumed
from vae_lab.reporting.tables import cell
from vae_lab.system.atomic import write_whole
from vae_lab.system.folders import expanded
from vae_lab.system.progress import track
from vae_lab.system.quoting import literal

log = logging.getLogger(__name__)

BLOCK = 256
"""Files between two entries in the journal."""


def score_files(detector: Detector, place: Place, rules: Rules, journal: Path, key: str) -> list[Row]:
    """Return the table row of each file, with its scores or the reason why it has none, sorted by path.

    The journal keeps the rows of an interrupted call; `key` identifies everything but the files that the scores depend
    on.
    """
    done = resumed(journal, key, place.files)
    waiting = [file for file in place.files if file.path not in done]
    sources: list[Source] = []
    blocks = decode_blocks(place.root, waiting, rules, BLOCK)
    for _, (block, decoded) in zip(track(range(0, len(waiting), BLOCK), "scoring"), blocks, strict=True):
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

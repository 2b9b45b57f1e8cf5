"""What the points of a map are coloured by: classes, scores, or a column of a CSV."""

import csv
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vae_lab.errors import DataError

PALETTE = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
    "#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d", "#9edae5",
)  # fmt: skip
"""Colours of groups, in their order: those that matplotlib calls tab10 and the lighter ones of tab20."""
UNKNOWN = "#c8c8c8"
"""Colour of images without a value."""
NONE, OTHERS = "no value", "others"
"""Names of the group of images without a value, and of that of all groups for which there is no colour."""


class Coloring(NamedTuple):
    """A value for each image of a map, as a number or as the name of a group.

    Attributes:
        title: what the values are, with their unit.
        texts: the values as texts; "" for images without a value.
        numbers: the values as numbers, NaN for images without a value; None if the values are names of groups.
    """

    title: str
    texts: list[str]
    numbers: Float[np.ndarray, " n"] | None = None

    def groups(self) -> dict[str, tuple[str, list[int]]]:
        """Return the colour and the rows of each group by its name, in the order of the legend."""
        counts = Counter(text for text in self.texts if text)
        kept = [name for name, _ in counts.most_common(len(PALETTE) - (len(counts) > len(PALETTE)))]
        names = sorted(kept, key=number_or_text)
        colours = dict(zip([*names, OTHERS], PALETTE, strict=False)) | {NONE: UNKNOWN}
        found: dict[str, tuple[str, list[int]]] = {name: (colour, []) for name, colour in colours.items()}
        for row, text in enumerate(self.texts):
            found[(text if text in names else OTHERS) if text else NONE][1].append(row)
        return {name: group for name, group in found.items() if group[1]}


class Labels(NamedTuple):
    """A column of a CSV.

    Attributes:
        path: of the CSV.
        column: name of the column.
        values: by the paths that the CSV has.
    """

    path: Path
    column: str
    values: dict[str, str]

    def of_images(self, root: Path, paths: Sequence[str]) -> list[str]:
        """Return the value of each image, "" for images without a row.

        Args:
            root: the folder of the images.
            paths: of the images below it; the CSV has these, or paths relative to its own folder.

        Raises:
            DataError: if the CSV names none of the images.
        """
        from vae_lab.reporting.tables import cell  # a training run needs no tables

        by_place = {os.path.realpath(self.path.parent / name): value for name, value in self.values.items()}
        found = [
            self.values.get(path, self.values.get(cell(path), by_place.get(os.path.realpath(root / path))))
            for path in paths
        ]
        if all(value is None for value in found):
            raise DataError(
                f"labels={self.path} names none of the images, such as {paths[0]!r}; its column path must have paths"
                " relative to images= or to the CSV."
            )
        return [value or "" for value in found]


def read_labels(path: Path, column: str) -> Labels:
    """Return a column of a CSV, with the path of each image in the column `path`.

    Raises:
        DataError: if the file cannot be read, has no column `path`, or names an image twice.
        ValueError: if the CSV does not have the column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            columns = list(rows.fieldnames or ())
            pairs = [(row["path"], (row.get(column) or "").strip()) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"labels={path} must be a CSV with a column path and others to colour by.") from error
    if column not in columns or column == "path":
        others = ", ".join(name for name in columns if name != "path") or "none"
        raise ValueError(f"color={column} is not a column of labels={path}, which has {others}; choose one of these.")
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise DataError(f"labels={path} names {twice!r} more than once; keep one line for each image.")
    return Labels(path, column, values)


def color_values(title: str, texts: list[str]) -> Coloring:
    """Return the coloring by texts: as numbers if all are, and not a few whole ones, which are taken for groups."""
    known = [text for text in texts if text]
    numbers = [number_or_text(text)[0] for text in known]
    few = len({*known}) <= len(PALETTE) // 2 and all(number.is_integer() for number in numbers if np.isfinite(number))
    if not known or few or not np.isfinite(numbers).all():
        return Coloring(title, texts)
    return Coloring(title, texts, np.array([float(text) if text else np.nan for text in texts]))


def number_or_text(text: str) -> tuple[float, str]:
    """Return a key that sorts texts as numbers if they are, and behind them by the alphabet."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text

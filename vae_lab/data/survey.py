"""A summary of a data set for the log and for summary.json.

A result on misread pictures looks like any other result. The summary says what was found in the files and how it was
used, and warns with a remedy of uses that are seldom intended.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from vae_lab.data.files.duplicates import NearDuplicates
from vae_lab.data.files.listing import printable
from vae_lab.data.files.source import Source
from vae_lab.data.images import Splits

log = logging.getLogger(__name__)

NFOLDERS = 5
"""Maximum number of top-level folders with a line of their own."""

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Names of folders, in lower case, that stand for a split."""

MASKS = frozenset({
    "annotation", "annotations", "ground_truth", "ground-truth", "groundtruth", "gt", "label", "labels", "mask",
    "masks", "seg", "segmentation", "segmentations",
})  # fmt: skip
"""Names of folders, in lower case, that hold masks or labels of other pictures."""

NAMED = 4
"""Maximum number of names in a sentence."""


class Survey(NamedTuple):
    """A summary of a data set, or of one aspect of it: facts, log lines and warnings.

    Attributes:
        facts: plain numbers and names, for summary.json.
        lines: the same facts for the log; at most twelve for a data set.
        warnings: sentences on uses of the files that are seldom intended.
    """

    facts: dict[str, Any]
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def log_lines(self) -> None:
        """Log the summary's lines as information, and its warnings as warnings."""
        for line in self.lines:
            log.info("%s", line)
        for warning in self.warnings:
            log.warning("%s", warning)

    def as_dict(self) -> dict[str, Any]:
        """Return the facts and the warnings as a dict, for summary.json."""
        return self.facts | {"warnings": list(self.warnings)}


def join_surveys(*surveys: Survey) -> Survey:
    """Return one summary with the facts, lines and warnings of several."""
    facts: dict[str, Any] = {}
    for survey in surveys:
        facts |= survey.facts
    lines, warnings = ([text for one in surveys for text in one[i]] for i in (1, 2))
    return Survey(facts, tuple(lines), tuple(warnings))


def survey_parts(parts: Splits, classes: Sequence[str]) -> Survey:
    """Return a summary of the number of images of each class in each split, without log lines."""
    counts = {name: np.bincount(part.labels.numpy(), minlength=len(classes)) for name, part in parts._asdict().items()}
    each = {name: {part: int(count[i]) for part, count in counts.items()} for i, name in enumerate(classes)}
    return Survey({"npictures": sum(map(len, parts)), "classes": each})


def survey_sources(sources: Sequence[Source], nbad: int) -> Survey:
    """Return a summary of the image files: formats, sizes, values; `nbad` is the number of unusable files."""
    return join_surveys(_files(sources, nbad), _sizes(sources), _depths(sources))


def _files(sources: Sequence[Source], nbad: int) -> Survey:
    """Return a summary of the numbers of files, pages and images, and of the file formats."""
    formats = Counter(source.format for source in sources).most_common()
    nfiles, npages = len(sources) + nbad, sum(source.npages for source in sources)
    line = f"pictures: {len(sources):,} of {nfiles:,} files ({', '.join(f'{n:,} {name}' for name, n in formats)})"
    facts = {"nfiles": nfiles, "npages": npages, "npictures": len(sources), "formats": dict(formats)}
    left = npages - len(sources)
    if not left:
        return Survey(facts, (line,))
    several = sum(source.npages > 1 for source in sources)
    warning = (
        f"{left:,} more pages or frames in {several:,} files are left out: the first one of each file is taken; save"
        " each page as a file of its own to use them all."
    )
    return Survey(facts, (f"{line}; {left:,} more pages or frames left out",), (warning,))


def _sizes(sources: Sequence[Source]) -> Survey:
    """Return a summary of the image sizes, and of the share of pixels outside the central square."""
    sizes = np.array([(source.width, source.height) for source in sources])
    by_area = sizes[np.argsort(sizes.prod(1), kind="stable")]
    least, median, most = (by_area[i].tolist() for i in (0, len(sizes) // 2, -1))
    sides = sizes.min(1).astype(float)
    cut = float(np.median(1 - sides**2 / sizes.prod(1)))
    facts = {"sizes": {"smallest": least, "median": median, "largest": most}, "share_cut_off": cut}
    span = _size(median) if least == most else f"{_size(least)} to {_size(most)}, median {_size(median)}"
    line = f"sizes: {span} pixels; the crop to the central square removes {100 * cut:.0f} % of the median picture"
    if cut <= 0.34:  # a photograph of 3:2 loses a third
        return Survey(facts, (line,))
    warning = (
        f"{100 * cut:.0f} % of the median picture lies outside its central square and is removed; cut such pictures"
        " into squares, or pad them to squares, before training."
    )
    return Survey(facts, (line,), (warning,))


def _depths(sources: Sequence[Source]) -> Survey:
    """Return a summary of the bits per sample, and of the range of the pixel values.

    The warning about a narrow range ignores a tenth of the pictures at either end, because a few broken pixels can span
    the whole range.
    """
    depths = Counter(source.nbits for source in sources)
    white = Counter(source.white for source in sources).most_common(1)[0][0]
    low, high = (np.array([getattr(source, end) / source.white for source in sources]) for end in ("low", "high"))
    used = [float(low.min() * white), float(high.max() * white)]
    facts = {"depths": {str(nbits): n for nbits, n in sorted(depths.items())}, "used": used, "white": white}
    each = sorted(depths.items())
    numbers = [f"{value:,.0f}" if white > 1 else f"{value:.3g}" for value in (*used, white)]
    said = ", ".join(f"{nbits} in {n:,} files" if len(each) > 1 else f"{nbits}" for nbits, n in each)
    line = f"bits per sample: {said}; the values go from {numbers[0]} to {numbers[1]} of 0 to {numbers[2]}"
    warnings: list[str] = []
    if len({max(nbits, 8) for nbits in depths}) > 1:
        warnings.append(
            f"the files differ in depth (bits per sample: {said}), and the whole range of each depth is scaled to black"
            " to white; convert them to one depth if equal values mean equal brightness."
        )
    bulk = float(np.quantile(high, 0.9, method="lower") - np.quantile(low, 0.1, method="higher"))
    if bulk < 0.25:
        warnings.append(
            f"nine in ten pictures use less than a quarter of the range of values ({numbers[0]} to {numbers[1]} of 0 to"
            f" {numbers[2]} in all), so the model sees almost uniform grey, and its error is small for that reason"
            " alone; scale the values to the whole range before training."
        )
    return Survey(facts, (line,), tuple(warnings))


def survey_folders(paths: Sequence[str], part: Sequence[int], classes: Sequence[str]) -> Survey:
    """Return a summary of the number of images of each top-level folder in each split.

    Args:
        paths: of the pictures, relative to the root.
        part: of each picture: 0 for training, 1 for validation, 2 for test.
        classes: names of the folders that are used as classes; empty without classes.
    """
    places = [PurePath(path).parts for path in paths]
    counts: dict[str, Counter[int]] = {}
    for place, number in zip(places, part, strict=True):
        counts.setdefault(printable(place[0]) if len(place) > 1 else ".", Counter())[number] += 1
    table = {
        name: {"train": count[0], "val": count[1], "test": count[2]}
        | ({"class": classes.index(name)} if name in classes else {})
        for name, count in counts.items()
    }
    by_size = sorted(table, key=lambda name: -sum(counts[name].values()))
    lines = [_folder_line(name, table[name]) for name in by_size[:NFOLDERS]]
    if len(by_size) > NFOLDERS:
        rest = sum(sum(counts[name].values()) for name in by_size[NFOLDERS:])
        lines.append(f"folders: {len(by_size) - NFOLDERS:,} more, with {rest:,} pictures")
    return Survey({"folders": table}, tuple(lines), tuple(_misread(places, classes)))


def _folder_line(name: str, row: dict[str, int]) -> str:
    """Return the log line of a folder: its class, and its number of images in each split."""
    total = row["train"] + row["val"] + row["test"]
    where = "the folder itself" if name == "." else f"folder {name}"
    role = f" (class {row['class']})" if "class" in row else ""
    return f"{where}{role}: {total:,} = {row['train']:,} train + {row['val']:,} val + {row['test']:,} test"


def _misread(places: Sequence[tuple[str, ...]], classes: Sequence[str]) -> list[str]:
    """Return warnings about folders with names of splits, masks or classes that are used as something else."""
    folders = Counter(name for place in places for name in set(place[:-1]))
    splits = [name for name, _ in folders.most_common() if name.lower() in SPLITS]
    masks = [name for name, _ in folders.most_common() if name.lower() in MASKS]
    tops = sorted({place[0] for place in places if len(place) > 1})
    several = len({SPLITS[name.lower()] for name in splits}) > 1
    warnings: list[str] = []
    if any(name.lower() in SPLITS for name in tops) and classes:
        warnings.append(
            f"the folders {_names(splits)} are used as classes, but their names are those of splits; set"
            f" data.root=<root>/{printable(splits[0])} to use the folders in it as classes."
        )
    elif several:
        warnings.append(
            f"the folders {_names(splits)} look like the splits of a data set, but their pictures are split again by"
            " data.split_seed, so that the model trains on some of the publisher's test pictures; set data.root= to the"
            " folder to train on."
        )
    nmasks = sum(any(name in masks for name in place[:-1]) for place in places)
    if 0 < nmasks < len(places):
        warnings.append(
            f"{nmasks:,} of {len(places):,} pictures lie in folders called {_names(masks)}, a name for masks or labels,"
            " and are used like other pictures; move them out of data.root."
        )
    if len(tops) > 1 and not classes and not several and not nmasks and all(len(place) > 1 for place in places):
        warnings.append(
            f"the pictures lie in {len(tops):,} folders ({_names(tops)}), which are not used as labels; if they"
            f" are classes, set data.labels=subfolders, and model.nclasses={len(tops)} for a conditional model."
        )
    return warnings


def survey_duplicates(nexact: int, near: NearDuplicates, paths: Sequence[str]) -> Survey:
    """Return a summary of the numbers of exact and of near duplicates.

    Args:
        nexact: number of pictures with the same pixels as an earlier one.
        near: near duplicates in different parts.
        paths: of the pictures.
    """
    facts = {"exact_duplicates": nexact, "near_duplicates": {"looked_at": near.nlooked, "found": near.count}}
    said = f"{near.count:,} of {near.nlooked:,} validation and test pictures have a near duplicate in another part"
    line = f"duplicates: {nexact:,} exact ones, kept together; {said}"
    if near.pair is None:
        return Survey(facts, (line,))
    first, second = (printable(paths[row]) for row in near.pair)
    warning = f"{said} (such as {second} and {first}), so their scores are better than those of new pictures;"
    return Survey(facts, (line,), (f"{warning} remove one of each pair from data.root.",))


def _names(names: Sequence[str]) -> str:
    """Return the first `NAMED` names as text, followed by the number of the others."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(printable(name) for name in names[:NAMED]) + more


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"

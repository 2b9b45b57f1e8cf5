"""Labels of scored images, normal or anomalous, and the detection metrics computed with them."""

import csv
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.data.files.places import Place
from vae_lab.detection.detector import CombinedDetector, Detector
from vae_lab.detection.figures import roc_figure
from vae_lab.detection.journal import Row
from vae_lab.detection.metrics import Detection, detection, inverted
from vae_lab.detection.score_table import columns, scored
from vae_lab.errors import DataError
from vae_lab.reporting.tables import cell
from vae_lab.system.atomic import whole, write_whole

log = logging.getLogger(__name__)


class LabelledRows(NamedTuple):
    """Rows of the table of scores for the images labelled normal and for those labelled anomalous."""

    normal: list[Row]
    anomalous: list[Row]


def is_table(truth: object) -> bool:
    """Return whether the setting truth= is the path of a CSV file of labels."""
    return isinstance(truth, str | Path) and str(truth).lower().endswith(".csv")


def read_truth(path: Path) -> list[tuple[str, bool]]:
    """Return pairs (path, whether it is anomalous) from a CSV file with the columns path and anomalous (0 or 1).

    Raises:
        DataError: if the file cannot be read, or has other columns or values.
    """
    try:
        if not path.is_file():  # reading a pipe would block
            raise FileNotFoundError(path)
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.DictReader(file)
            return [(row["path"], ("0", "1").index(row["anomalous"].strip()) == 1) for row in rows]
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        raise DataError(f"truth={path} must be a CSV with the columns path and anomalous, which is 0 or 1.") from error


def labels_of(truth: list[tuple[str, bool]], place: Place) -> dict[str, bool]:
    """Return a dict from the path of each labelled file to whether it is anomalous.

    Names in `truth` may be escaped as in the table of scores.

    Raises:
        DataError: if a name matches no file or occurs twice, or if all labels are equal.
    """
    paths = [one.path for one in (*place.files, *place.unreadable)]
    known = {path: path for path in paths} | {cell(path): path for path in paths}
    labels: dict[str, bool] = {}
    for name, anomalous in truth:
        if name not in known:
            raise DataError(f"truth= names {name!r}, which is not among the images; use the paths of the table.")
        if known[name] in labels:
            raise DataError(f"truth= names {name!r} more than once; keep one line for each image.")
        labels[known[name]] = anomalous
    if set(labels.values()) != {False, True}:
        raise DataError("truth= must label at least one image as normal (0) and one as anomalous (1).")
    if len(labels) < len(paths):
        log.info("%d of %d files have no label in truth=", len(paths) - len(labels), len(paths))
    return labels


def known_rows(screened: list[list[Row]], labels: dict[str, bool] | None) -> LabelledRows:
    """Return the table rows of the normal and of the anomalous images that have a score.

    Args:
        screened: rows of images=, and those of truth= if it names images.
        labels: whether each file of images= is anomalous, if truth= is a CSV file.

    Raises:
        DataError: if there are no scored rows of one kind.
    """
    good = [scored(rows) for rows in screened]
    if labels is not None:
        found = LabelledRows(*([row for row in good[0] if labels.get(row.path) is kind] for kind in (False, True)))
    else:
        found = LabelledRows(*good)
    for kind, rows in found._asdict().items():
        if not rows:
            raise DataError(f"truth= needs images of both kinds, but none of the {kind} ones could be scored.")
    return found


def report_truth(detector: Detector, known: LabelledRows, table: Path, nreplicates: int) -> None:
    """Log the detection metrics of each score, and write them as JSON with a figure of the ROC curves."""
    normal, anomalous = columns(known.normal), columns(known.anomalous)
    names = ["score", *(detector.members if isinstance(detector, CombinedDetector) else ())]
    content: dict[str, Any] = {"nnormal": len(known.normal), "nanomalous": len(known.anomalous)}
    content["nseen"] = int((normal["seen"] > 0).sum())  # normal images in the run's training or validation data
    log.info("%-22s %-27s %-27s %-27s", "", *Detection._fields)
    for name in names:
        found = detection(normal[name], anomalous[name], nreplicates=nreplicates, seed=0)
        cells = (f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in found)
        log.info("%-22s %-27s %-27s %-27s", name, *cells)
        content[name] = {metric: interval._asdict() for metric, interval in found._asdict().items()}
        if found.auroc.low == 1:  # with perfect separation, all bootstrap replicates are equal
            lowest = 0.025 ** (1 / min(len(known.normal), len(known.anomalous)))
            line = "warning: %s separates all images, so its interval is a point; with so few, the AUROC may be %.2f"
            log.warning(line, name, lowest)
    for name in names:
        if share := inverted(normal[name], {name: anomalous[name]}).get(name):
            line = "warning: %s is inverted here: an anomalous image scores below a normal one in %.0f %% of pairs"
            log.warning(line, name, 100 * share)
    write_whole(table.with_name(f"{table.stem}-truth.json"), json.dumps(content, indent=2).encode())
    with whole(table.with_name(f"{table.stem}-roc.png")) as path:
        roc_figure({name: (normal[name], anomalous[name]) for name in names}).savefig(path, format="png", dpi=110)

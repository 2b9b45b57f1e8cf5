"""A folder of images judged by a run: a table, pictures and, if the truth is known, how well it went."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vae_lab.calibration import Calibration, load_detector
from vae_lab.data.decoded import Rules, decode_files
from vae_lab.detection import Columns, Detector, Judged, Panel, Pixels, prepared
from vae_lab.errors import DataError, FilesFailed, require_counts
from vae_lab.evaluation.conformal import require_level
from vae_lab.evaluation.detection import Detection, detection
from vae_lab.evaluation.detection_figures import contact_sheet, heat_sheet, pixel_errors, roc_figure
from vae_lab.files import whole, write_png, write_whole
from vae_lab.runs import load_checkpoint
from vae_lab.scorefile import Place, Row, columns, find, read_truth, score_files, write_table

log = logging.getLogger(__name__)

MAX_PIXELS, BACKGROUND = 178_956_970, 255
"""Rules for files where the run's own data were no files."""


def screen(
    *,
    run: str | list[str],
    images: str,
    score: dict[str, Any],
    truth: str | None,
    alpha: float,
    out: str,
    nshown: int,
    nreplicates: int,
    **calibration: Any,
) -> list[Row]:
    """Return a row for each file, and write `out` with pictures beside it; the settings are those of conf/detect.yaml.

    Raises:
        FilesFailed: at the end, if some files could not be scored.
        DataError: if a run or the images cannot be found.
        ValueError: if a setting is wrong, or the score is not for the model.
    """
    how = Calibration(**calibration)
    require_counts(ncalibration=how.ncalibration, nfit=how.nfit, nshown=nshown, nreplicates=nreplicates)
    runs = [Path(one).expanduser() for one in ([run] if isinstance(run, str) else run)]
    table = Path(out).expanduser()
    labels = read_truth(Path(truth).expanduser()) if truth is not None and truth.lower().endswith(".csv") else None
    folders = [images] if truth is None or labels is not None else [images, truth]
    places = [find(Path(folder).expanduser()) for folder in folders]
    detector = load_detector(runs, score, how)
    require_level(len(detector.calibration), alpha)
    warn_if_inverted(detector)
    rules = file_rules(load_checkpoint(runs[0], how.checkpoint)["hyper_parameters"]["data"])
    screened = [
        screen_place(detector, place, rules, table if i == 0 else table.with_stem(f"{table.stem}-truth"), alpha, nshown)
        for i, place in enumerate(places)
    ]
    rows = [row for one in screened for row in one]
    if truth is not None:
        known = by_label(screened[0], labels) if labels is not None else Known(*map(scored, screened))
        report_truth(detector, known, table, nreplicates)
    failed = len(rows) - len(scored(rows))
    if failed:
        raise FilesFailed(f"{failed} of {len(rows)} files could not be scored; the reasons are in {table}.")
    return rows


def scored(rows: list[Row]) -> list[Row]:
    """Return the rows that have numbers."""
    return [row for row in rows if row.values]


def screen_place(  # noqa: PLR0917
    detector: Detector, place: Place, rules: Rules, table: Path, alpha: float, nshown: int
) -> list[Row]:
    """Return a row for each file of one place, and write the table and the pictures."""
    journal = table.with_name(f".{table.name}.journal")
    rows = score_files(detector, place, rules, journal, f"{detector.key} {place.root}")
    good = scored(rows)
    described = columns(good)
    judged = detector.judge(described, alpha)
    write_table(table, rows, judged)
    strangest = judged.scores.argsort(descending=True)[:nshown].tolist()
    if strangest:
        files = {file.path: file for file in place.files}
        names = [good[i].path for i in strangest]
        pixels = decode_files(place.root, [files[name] for name in names], rules, lambda _: None).pixels
        shown = {name: values[strangest] for name, values in described.items()}
        draw(detector, pixels, names, detector.judge(shown, alpha), table)
    journal.unlink(missing_ok=True)
    line = "%d of %d images flagged at alpha = %g, %d files could not be read; %s"
    log.info(line, int(judged.flagged.sum()), len(good), alpha, len(rows) - len(good), table)
    report_members(detector, described, alpha)
    return rows


def report_members(detector: Detector, described: Columns, alpha: float) -> None:
    """Log how many images each score of a panel flags."""
    if not isinstance(detector, Panel) or not len(described["score"]):
        return
    log.info("%-22s %8s %12s %12s", "score", "flagged", "median", "highest")
    for name in detector.members:
        nflagged, values = int((described[f"{name}_p_value"] <= alpha).sum()), described[name]
        log.info("%-22s %8d %12.5g %12.5g", name, nflagged, values.median().item(), values.max().item())


def file_rules(data: dict[str, Any]) -> Rules:
    """Return how files are decoded: as the run's own were."""
    limits = (data.get("max_pixels", MAX_PIXELS), data.get("background", BACKGROUND))
    return Rules(data["channels"], data["image_size"], *limits)


def warn_if_inverted(detector: Detector) -> None:
    """Say so if the score calls a picture of nothing normal."""
    for name, share in detector.preferred().items():
        line = (
            "beware: this score calls a plain %s image more normal than %.0f %% of normal images; such ones will pass"
        )
        log.warning(line, name, 100 * share)


def draw(detector: Detector, pixels: Pixels, names: list[str], judged: Judged, table: Path) -> None:
    """Write the contact sheet of the strangest images, and the heat maps of those among them that are flagged."""
    sheet = contact_sheet(prepared(pixels, binary=False), judged.scores, judged.p_values, names, judged.flagged)
    with whole(table.with_name(f"{table.stem}-strangest.png")) as path:
        sheet.savefig(path, format="png", dpi=110)
    if not judged.flagged.any():
        return
    seen = prepared(pixels[judged.flagged], binary=detector.binary)
    with torch.no_grad():
        decoded = detector.model.generative(detector.model.posterior(seen).mean).mean
    brightest = pixel_errors(seen, decoded).quantile(0.99).item()
    write_png(table.with_name(f"{table.stem}-heat.png"), heat_sheet(seen, decoded, full=brightest))


class Known(NamedTuple):
    """Rows of images of which it is known what they are."""

    normal: list[Row]
    anomalous: list[Row]


def by_label(rows: list[Row], labels: dict[str, bool]) -> Known:
    """Return the rows with a label, and say how many have none.

    Raises:
        DataError: if a label is of no row, or one kind has no image.
    """
    unknown = sorted(labels.keys() - {row.path for row in rows})
    if unknown:
        raise DataError(f"truth= names {unknown[0]!r}, which is not among the images; paths are those of the table.")
    good = scored(rows)
    known = Known(*([row for row in good if labels.get(row.path) is kind] for kind in (False, True)))
    if not known.normal or not known.anomalous:
        raise DataError("truth= must call at least one image normal (0) and one anomalous (1).")
    if len(labels) < len(rows):
        log.info("%d of %d files have no label in truth=", len(rows) - len(labels), len(rows))
    return known


def report_truth(detector: Detector, known: Known, table: Path, nreplicates: int) -> None:
    """Log and write how well the anomalous images are told from the others by each score, with a ROC plot."""
    normal, anomalous = columns(known.normal), columns(known.anomalous)
    names = ["score", *(detector.members if isinstance(detector, Panel) else ())]
    content: dict[str, Any] = {"nnormal": len(known.normal), "nanomalous": len(known.anomalous)}
    log.info("%-22s %-27s %-27s %-27s", "", *Detection._fields)
    for name in names:
        found = detection(normal[name], anomalous[name], nreplicates=nreplicates, seed=0)
        cells = (f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in found)
        log.info("%-22s %-27s %-27s %-27s", name, *cells)
        content[name] = {metric: interval._asdict() for metric, interval in found._asdict().items()}
    write_whole(table.with_name(f"{table.stem}-truth.json"), json.dumps(content, indent=2).encode())
    with whole(table.with_name(f"{table.stem}-roc.png")) as path:
        roc_figure({name: (normal[name], anomalous[name]) for name in names}).savefig(path, format="png", dpi=110)

"""Anomaly detection on a folder of images: table, contact sheet, heat maps, metrics."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import PIL

from vae_lab.data.binarize import prepared
from vae_lab.data.files.cache import Rules, decode_files
from vae_lab.data.files.decode import RULES
from vae_lab.data.files.places import Place, exclude_files, find_all, paths, real_path
from vae_lab.data.pictures import file_rules
from vae_lab.detection.calibration import Calibration, check_level, load_detector
from vae_lab.detection.conformal import false_alarms, fewest_discoveries, named_level, require_alpha, require_level
from vae_lab.detection.detector import Columns, CombinedDetector, Detections, Detector, Pixels, warn_of_seen
from vae_lab.detection.figures import contact_sheet, heat_sheet
from vae_lab.detection.ground_truth import is_table, known_rows, labels_of, read_truth, report_truth
from vae_lab.detection.journal import Row
from vae_lab.detection.score_table import columns, output_paths, score_files, scored, table_paths, write_table
from vae_lab.errors import DataError, FilesFailed, require_count
from vae_lab.runs.folder import find_run
from vae_lab.system.atomic import expand_wildcards, whole, write_png
from vae_lab.system.folders import require_writable

log = logging.getLogger(__name__)

PLAUSIBLE = 0.05
"""Share of anomalous images in a batch that is not unlikely."""


def score_folder(
    *,
    run: object,
    images: object,
    score: dict[str, Any],
    truth: object,
    alpha: object,
    fdr: object = None,
    out: object,
    nshown: int,
    nreplicates: int,
    force: bool = False,
    **calibration: Any,
) -> list[Row]:
    """Return the table row of each image file, and write the table `out` with its figures.

    conf/detect.yaml explains the settings.

    Raises:
        FilesFailed: at the end, if some files could not be scored.
        DataError: if a run or the images cannot be found, or truth= does not match them.
        ValueError: if a setting is wrong, or the score does not fit the model.
    """
    how = Calibration(**calibration)
    require_count("ncalibration", how.ncalibration)
    require_count("nfit", how.nfit)
    require_count("nshown", nshown)
    require_count("nreplicates", nreplicates)
    require_alpha(alpha)
    assert isinstance(alpha, int | float)
    if fdr is not None:
        require_alpha(fdr, "fdr")
    assert isinstance(fdr, int | float | None)
    require_level(how.ncalibration, *named_level(alpha, fdr))
    tables = table_paths(out, 1 if truth is None or is_table(truth) else 2, force=force)
    runs, table = [find_run(one) for one in paths(run, "run")], tables[0]
    check_level(runs, how, alpha, fdr)
    require_writable(table.parent)
    entries = read_truth(paths(truth, "truth")[0]) if is_table(truth) else None
    places = find_places(images, truth, table)
    labels = None if entries is None else labels_of(entries, places[0])
    detector = load_detector(runs, score, how)
    warn_if_inverted(detector)
    if fdr is None:
        warn_if_few(len(detector.calibration), alpha)
    rules = file_rules(detector.model)
    screened = [
        score_place(detector, place, rules, out, alpha, fdr, nshown) for place, out in zip(places, tables, strict=True)
    ]
    if truth is not None:
        report_truth(detector, known_rows(screened, labels), table, nreplicates)
    for one in tables:  # at the end, so that a job interrupted at the second place resumes both
        journal_path(one).unlink(missing_ok=True)
    rows = [row for some in screened for row in some]
    failed = len(rows) - len(scored(rows))
    if failed:
        raise FilesFailed(f"{failed} of {len(rows)} files could not be scored; the reasons are in {table}.")
    return rows


def find_places(images: object, truth: object, table: Path) -> list[Place]:
    """Return the files to score: those that images= names, and those that truth= names if it is not a CSV file.

    Files that this command itself reads or writes are left out. Files in both places count as anomalous only.

    Raises:
        DataError: if no file is left.
    """
    own = output_paths(table) | ({os.path.realpath(one) for one in paths(truth, "truth")} if is_table(truth) else set())
    everything = find_all(expand_wildcards(paths(images, "images"), "images"), "images")
    place = exclude_files(everything, own)
    if len(place.files) < len(everything.files):
        line = "left out %d files of images= that are the file truth= or were written to out= by an earlier call"
        log.info(line, len(everything.files) - len(place.files))
    anomalous = [] if truth is None or is_table(truth) else expand_wildcards(paths(truth, "truth"), "truth")
    others = [exclude_files(find_all(anomalous, "truth"), own)] if anomalous else []
    rest = exclude_files(place, {real_path(other, file) for other in others for file in other.files})
    if len(rest.files) < len(place.files):
        log.info("%d files of images= are also in truth= and count as anomalous", len(place.files) - len(rest.files))
    for one, setting in zip((rest, *others), ("images", "truth"), strict=False):
        if not one.files and not one.unreadable:
            raise DataError(f"{setting}= holds no files other than those of out= or truth=; name other images.")
    return [rest, *others]


def score_place(  # noqa: PLR0917
    detector: Detector, place: Place, rules: Rules, table: Path, alpha: float, fdr: float | None, nshown: int
) -> list[Row]:
    """Return the table row of each file in `place`, and write the table of scores and its figures."""
    rows = score_files(detector, place, rules, journal_path(table), journal_key(detector, place, rules))
    good = scored(rows)
    described = columns(good)
    judged = detector.judge(described, alpha, fdr)
    if fdr is not None:
        warn_if_coarse(len(detector.calibration), len(good), fdr)
    write_table(table, rows, judged)
    files = {file.path: file for file in place.files}
    strangest = judged.scores.argsort(descending=True)[:nshown].tolist()
    decoded = decode_files(place.root, [files[good[i].path] for i in strangest], rules, lambda _: None)
    gone = {bad.path for bad in decoded.bad}  # removed or changed after scoring
    strangest = [i for i in strangest if good[i].path not in gone]
    if strangest:
        shown = judged.select(strangest)
        write_figures(detector, decoded.pixels, [good[i].path for i in strangest], shown, table)
    level, name = named_level(alpha, fdr)
    line = "%d of %d images flagged at %s = %g, %d files could not be read; %s"
    log.info(line, int(judged.flagged.sum()), len(good), name, level, len(rows) - len(good), table)
    warn_of_seen(judged, [row.path for row in good])
    report_members(detector, described, alpha)
    return rows


def journal_path(table: Path) -> Path:
    """Return the path of the journal that belongs to a table of scores."""
    return table.with_name(f".{table.name}.journal")


def journal_key(detector: Detector, place: Place, rules: Rules) -> str:
    """Return a string that identifies everything that the scores depend on, except the files."""
    return f"{detector.key} {place.root} {PIL.__version__} {RULES} {rules}"


def report_members(detector: Detector, described: Columns, alpha: float) -> None:
    """Log the number of flagged images, the median and the maximum of each score of a combined detector."""
    if not isinstance(detector, CombinedDetector) or not len(described["score"]):
        return
    log.info("%-22s %8s %12s %12s", "score", "flagged", "median", "highest")
    for name in detector.members:
        nflagged, values = int((described[f"{name}_p_value"] <= alpha).sum()), described[name]
        log.info("%-22s %8d %12.5g %12.5g", name, nflagged, values.median().item(), values.max().item())


def warn_if_inverted(detector: Detector) -> None:
    """Log a warning if a constant image scores below most normal images."""
    for name, share in detector.preferred().items():
        line = "warning: a plain %s image scores below %.0f %% of normal images; this score will not flag such images"
        log.warning(line, name, 100 * share)


def warn_if_few(ncalibration: int, alpha: float) -> None:
    """Log a warning if the 95 % interval of the false alarm rate over calibration sets exceeds 2 alpha."""
    share = false_alarms(ncalibration, alpha)
    if share.high > 2 * alpha:
        line = "warning: with %d calibration images and alpha = %g, from %.1f to %.1f %% of normal images are flagged"
        log.warning(line, ncalibration, alpha, 100 * share.low, 100 * share.high)


def warn_if_coarse(ncalibration: int, nimages: int, fdr: float) -> None:
    """Log a warning if images can only be flagged together with more others than are likely to be anomalous."""
    fewest = fewest_discoveries(ncalibration, nimages, fdr)
    if fewest > max(1, PLAUSIBLE * nimages):
        enough = math.ceil(nimages / max(1, math.floor(PLAUSIBLE * nimages)) / fdr - 1e-9) - 1
        line = "warning: with %d calibration images, fdr = %g flags none of %d images, or at least %d; use at least %d"
        log.warning(line, ncalibration, fdr, nimages, fewest, enough)


def write_figures(detector: Detector, pixels: Pixels, names: list[str], judged: Detections, table: Path) -> None:
    """Write a contact sheet of the most anomalous images, and heat maps of the flagged ones among them."""
    sheet = contact_sheet(prepared(pixels, binary=False), judged.scores, judged.p_values, names, judged.flagged)
    with whole(table.with_name(f"{table.stem}-strangest.png")) as path:
        sheet.savefig(path, format="png", dpi=110)
    heat = table.with_name(f"{table.stem}-heat.png")
    if not judged.flagged.any():
        heat.unlink(missing_ok=True)  # written by an earlier call for other images
        return
    flagged = pixels[judged.flagged]
    found = detector.heat(flagged)
    write_png(heat, heat_sheet(prepared(flagged, binary=detector.binary), found, full=found.quantile(0.99).item()))

"""A folder of images judged by a run: a table, pictures and, if the truth is known, how well it went."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vae_lab.data.decoded import Rules, decode_files
from vae_lab.detection import Detector, Judged, Pixels, load_detector, prepared
from vae_lab.errors import FilesFailed, require_counts
from vae_lab.evaluation.conformal import require_level
from vae_lab.evaluation.detection import detection
from vae_lab.evaluation.detection_figures import contact_sheet, heat_sheet, pixel_errors, roc_figure
from vae_lab.files import whole, write_png, write_whole
from vae_lab.runs import load_checkpoint
from vae_lab.scorefile import Place, Row, find, score_files, write_table

log = logging.getLogger(__name__)

MAX_PIXELS, BACKGROUND = 178_956_970, 255
"""Rules for files where the run's own data were no files."""


def screen(
    *,
    run: str,
    images: str,
    score: dict[str, Any],
    truth: str | None,
    alpha: float,
    out: str,
    checkpoint: str,
    root: str | None,
    ncalibration: int,
    nfit: int,
    nshown: int,
    nreplicates: int,
) -> list[Row]:
    """Return a row for each file, and write `out` with pictures beside it; the settings are those of conf/detect.yaml.

    Raises:
        FilesFailed: at the end, if some files could not be scored.
        DataError: if the run or the images cannot be found.
        ValueError: if a setting is wrong, or the score is not for this model.
    """
    require_counts(ncalibration=ncalibration, nfit=nfit, nshown=nshown, nreplicates=nreplicates)
    folder, table = Path(run).expanduser(), Path(out).expanduser()
    places = [find(Path(path).expanduser()) for path in (images, truth) if path is not None]
    detector = load_detector(folder, score, checkpoint=checkpoint, root=root, ncalibration=ncalibration, nfit=nfit)
    require_level(len(detector.calibration), alpha)
    warn_if_inverted(detector)
    rules = file_rules(load_checkpoint(folder, checkpoint)["hyper_parameters"]["data"])
    screened = [
        screen_place(detector, place, rules, table if i == 0 else table.with_stem(f"{table.stem}-truth"), alpha, nshown)
        for i, place in enumerate(places)
    ]
    if truth is not None:
        report_truth(screened[0].judged.scores, screened[1].judged.scores, table, nreplicates)
    rows = [row for one in screened for row in one.rows]
    failed = sum(row.score is None for row in rows)
    if failed:
        raise FilesFailed(f"{failed} of {len(rows)} files could not be scored; the reasons are in {table}.")
    return rows


class Screened(NamedTuple):
    """What was found in one place: a row for each file, and what is said of those that have a score."""

    rows: list[Row]
    judged: Judged


def screen_place(  # noqa: PLR0917
    detector: Detector, place: Place, rules: Rules, table: Path, alpha: float, nshown: int
) -> Screened:
    """Return what was found, and write the table and the pictures."""
    journal = table.with_name(f".{table.name}.journal")
    key = f"{detector.key} {place.root}"
    rows = score_files(detector, place, rules, journal, key)
    scored = [row for row in rows if row.score is not None]
    judged = detector.judge(torch.tensor([row.score for row in scored]).double(), alpha)
    write_table(table, rows, judged)
    strangest = judged.scores.argsort(descending=True)[:nshown]
    if len(strangest):
        files = {file.path: file for file in place.files}
        names = [scored[i].path for i in strangest.tolist()]
        pixels = decode_files(place.root, [files[name] for name in names], rules, lambda _: None).pixels
        draw(detector, pixels, names, Judged(*(values[strangest] for values in judged)), table)
    journal.unlink(missing_ok=True)
    line = "%d of %d images flagged at alpha = %g, %d files could not be read; %s"
    log.info(line, int(judged.flagged.sum()), len(scored), alpha, len(rows) - len(scored), table)
    return Screened(rows, judged)


def file_rules(data: dict[str, Any]) -> Rules:
    """Return how files are decoded: as the run's own were."""
    limits = (data.get("max_pixels", MAX_PIXELS), data.get("background", BACKGROUND))
    return Rules(data["channels"], data["image_size"], *limits)


def warn_if_inverted(detector: Detector) -> None:
    """Say so if the score calls a picture of nothing normal."""
    for name, share in detector.preferred().items():
        line = "beware: this score calls a %s image more normal than %.0f %% of normal images; simple images will pass"
        log.warning(line, f"plain {name}", 100 * share)


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


def report_truth(normal: Tensor, anomalous: Tensor, table: Path, nreplicates: int) -> None:
    """Log and write how well the anomalous images are told from the others, with a ROC plot."""
    found = detection(normal, anomalous, nreplicates=nreplicates, seed=0)
    for name, interval in found._asdict().items():
        log.info("%s %.4f (%.4f to %.4f)", name, interval.value, interval.low, interval.high)
    content = {name: interval._asdict() for name, interval in found._asdict().items()}
    content |= {"nnormal": len(normal), "nanomalous": len(anomalous)}
    write_whole(table.with_name(f"{table.stem}-truth.json"), json.dumps(content, indent=2).encode())
    with whole(table.with_name(f"{table.stem}-roc.png")) as path:
        roc_figure({"score": (normal, anomalous)}).savefig(path, format="png", dpi=110)

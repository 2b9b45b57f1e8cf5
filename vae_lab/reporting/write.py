"""Writing of a report."""

from collections.abc import Sequence
from pathlib import Path

from vae_lab.errors import require_choice, require_count
from vae_lab.reporting.html import Report, render, summarised
from vae_lab.reporting.ranking import check_protocols
from vae_lab.reporting.run_records import COMPLETED, RunRecord, read_runs
from vae_lab.reporting.tables import csv_table, markdown
from vae_lab.system.atomic import require_folder_name, write_whole
from vae_lab.system.error_text import nearest
from vae_lab.system.folders import require_writable


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    metric: str,
    mode: str,
    ignored: Sequence[str],
    picture_side: int,
) -> Report:
    """Return what was found of runs, and write it as a page, a CSV and a Markdown file.

    Args:
        runs: run folders, and folders of such.
        out: the page, if it ends in .html; else the folder of report.html. The other two files lie beside it.
        metric: what runs are ranked by: a number of summary.json, or of evaluation-val.json as evaluation-val/….
        mode: min or max, whichever of the metric is better.
        ignored: settings, or groups of them, that tell no cells apart, beside those that change no result.
        picture_side: pixels of a picture's longer side.

    Raises:
        DataError: if there is no run.
        ValueError: if a setting is wrong, no run has the metric, or runs have measured it in different ways.
    """
    require_count("picture_side", picture_side)
    require_folder_name(out, ".html")
    require_choice("mode", mode, ("min", "max"))
    page = out if out.suffix.lower() == ".html" else out / "report.html"
    require_writable(page.parent)
    trials = read_runs(runs)
    check_metric(trials, metric)
    check_protocols(trials, metric)
    title = ", ".join(run.absolute().name for run in runs)
    report = summarised(trials, title, metric, ignored, lowest=mode == "min")
    texts = {
        page: render(report, picture_side),
        page.with_suffix(".csv"): csv_table(report.trials, report.keys),
        page.with_suffix(".md"): markdown(report.cells, report.trials, metric, report.sentences),
    }
    for path, text in texts.items():
        write_whole(path, encodable(text).encode())
    return report


def encodable(text: str) -> str:
    """Return a text with what UTF-8 has no bytes for written out, as in names of files that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def check_metric(trials: Sequence[RunRecord], metric: str) -> None:
    """Raise ValueError if runs have finished, but none with the metric."""
    names = sorted({name for trial in trials if trial.status == COMPLETED for name in trial.metrics})
    if names and metric not in names:
        raise ValueError(f"no finished run has metric={metric}; there are {nearest(metric, names, 3)} and others.")

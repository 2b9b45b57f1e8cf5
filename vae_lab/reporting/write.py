"""Writing of a report as HTML, CSV and Markdown."""

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
    """Write a report on runs as an HTML page, a CSV file and a Markdown file, and return the `Report`.

    Args:
        runs: run folders, or folders of run folders.
        out: path of the page if it ends in .html, else a folder for report.html. The other files are written beside it.
        metric: metric to rank runs by: a key of summary.json, or evaluation-val/… for one of evaluation-val.json.
        mode: "min" if lower values of the metric are better, else "max".
        ignored: settings or groups that do not distinguish groups of runs, beside those without effect on results.
        picture_side: length of a picture's longer side in pixels.

    Raises:
        DataError: if there is no run.
        ValueError: if a setting is invalid, no run has the metric, or runs measured it with different settings.
    """
    require_count("picture_side", picture_side)
    require_folder_name(out, ".html")
    require_choice("mode", mode, ("min", "max"))
    page = page_path(out)
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


def page_path(out: Path) -> Path:
    """Return the path of the HTML page: `out` itself if it ends in .html, else report.html in that folder."""
    return out if out.suffix.lower() == ".html" else out / "report.html"


def encodable(text: str) -> str:
    """Return a text in which characters that UTF-8 cannot encode, as in some file names, are escaped."""
    return text.encode(errors="backslashreplace").decode()


def check_metric(trials: Sequence[RunRecord], metric: str) -> None:
    """Raise ValueError if completed runs have metrics, but none has this metric."""
    names = sorted({name for trial in trials if trial.status == COMPLETED for name in trial.metrics})
    if names and metric not in names:
        raise ValueError(f"no completed run has metric={metric}; choose another, such as {nearest(metric, names, 3)}.")

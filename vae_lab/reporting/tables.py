"""The report as CSV and Markdown tables."""

import csv
import io
import re
from collections.abc import Sequence

from vae_lab.data.files.listing import printable
from vae_lab.reporting.flat_config import ABSENT, shown
from vae_lab.reporting.run_records import COMPLETED, RunRecord
from vae_lab.reporting.seed_groups import SeedGroup, decimal, spanned
from vae_lab.runs.metrics import beside
from vae_lab.system.quoting import literal


def csv_table(trials: Sequence[RunRecord], keys: Sequence[str]) -> str:
    """Return a CSV table with a row for each run: settings, metrics, the reason of a failure, and the command."""
    metrics = sorted({name for trial in trials for name in trial.metrics})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ("seconds", "images_per_second", "reason", "command")
    writer.writerow([literal(name) for name in ("trial", "status", "seed", *keys, *metrics, *ends)])
    for trial in trials:
        settings = [trial.settings.get(key, ABSENT if trial.settings else "") for key in keys]
        values = [*(trial.metrics.get(name) for name in metrics), trial.seconds, trial.images_per_second]
        writer.writerow(
            [literal(text) for text in (trial.name, trial.status, trial.seed, *map(shown, settings))]
            + ["" if value is None else f"{value:.8g}" for value in values]
            + [literal(text) for text in (trial.reason, trial.command)]
        )
    return text.getvalue()


def cell(path: str) -> str:
    """Return a path escaped for a CSV cell: one line of UTF-8 text that a spreadsheet does not take for a formula.

    Bytes that are not printable UTF-8 are escaped with backslashes, and the path's own backslashes are doubled. Text
    that looks like a formula gets an apostrophe in front, and a leading apostrophe of the path is doubled.
    """
    plain = literal(printable(path.replace("\\", "\\\\")))
    return f"'{plain}" if path.startswith("'") else plain


def markdown(cells: Sequence[SeedGroup], trials: Sequence[RunRecord], metric: str, sentences: Sequence[str]) -> str:
    """Return the report as Markdown: the findings, a table of groups, and the runs without a result."""
    keys = list(cells[0].settings) if cells else []
    lines = [*(escaped(sentence) for sentence in sentences), ""]
    if cells:
        test = [beside(metric)] if any(cell.tested is not None for cell in cells) else []
        titles = [*keys, metric, "95 % interval", *test, "seeds", "runs"]
        lines += [_row(titles), _row(["---"] * len(titles))]
        for cell in cells:
            settings = [shown(cell.settings[key]) for key in keys]
            results = [decimal(cell.mean), spanned(cell.interval), *([decimal(cell.tested)] if test else [])]
            lines.append(_row([*settings, *results, str(len(cell.values)), str(len(cell.trials))]))
    failed = [trial for trial in trials if trial.status != COMPLETED]
    if failed:
        lines += ["", f"{len(failed)} of {len(trials)} runs have no result:", ""]
        lines += [f"- {escaped(trial.name)}, {escaped(trial.status)}: {escaped(trial.reason)}" for trial in failed]
    return "\n".join(lines) + "\n"


def _row(entries: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(entry) if entry != "---" else entry for entry in entries) + " |"


def escaped(text: str) -> str:
    """Return a text in one line with Markdown and HTML escaped."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", plain)

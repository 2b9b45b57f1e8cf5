"""The report page: one HTML file that works offline.

The page's content security policy blocks all external resources and all scripts except the page's two, which it
identifies by hash, so that text from an untrusted run folder cannot run as a script.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vae_lab.reporting.comparison import metric_pairs, setting_differences
from vae_lab.reporting.flat_config import labelled, shown, varied_keys
from vae_lab.reporting.pictures import thumbnail
from vae_lab.reporting.ranking import measured_on, ranked_sets
from vae_lab.reporting.run_records import COMPLETED, RunRecord
from vae_lab.reporting.seed_groups import SeedGroup, cautions, decimal, grouped, result, spanned, verdicts
from vae_lab.runs.identity import WITHOUT_EFFECT
from vae_lab.runs.metrics import beside, direction

if TYPE_CHECKING:
    import plotly.graph_objects as go

PICTURES = {"samples": "Samples", "reconstructions": "Reconstructions"}
"""Files of figures/ to show for every run, and their titles."""


class Report(NamedTuple):
    """The content of a report.

    Attributes:
        title: names of the folders.
        trials: the runs, best first, runs without a result last.
        named: the runs in the order of the command line.
        keys: the settings that vary.
        cells: the runs grouped by those settings, best group first.
        metric: the metric that ranks the runs.
        lowest: whether lower values of the metric are better.
        sentences: the findings in words.
    """

    title: str
    trials: list[RunRecord]
    named: list[RunRecord]
    keys: list[str]
    cells: list[SeedGroup]
    metric: str
    lowest: bool
    sentences: list[str]


def summarised(trials: Sequence[RunRecord], title: str, metric: str, ignored: Sequence[str], *, lowest: bool) -> Report:
    """Return the `Report` on runs, grouped by all settings that vary except those in `ignored`."""
    ignored = [*ignored, *WITHOUT_EFFECT]
    image_sets = {trial.settings.get("images") for trial in trials if trial.status == COMPLETED or trial.images}
    ignored += ["images"] if len(image_sets) < 2 else []  # a run that failed early has no images and is not counted
    keys = varied_keys([trial.settings for trial in trials if trial.settings], ignored)
    cells = grouped(trials, keys, metric, lowest=lowest)

    sets = list(dict.fromkeys([cell.images for cell in cells] + [measured_on(trial, metric) for trial in trials]))

    def rank(trial: RunRecord) -> tuple[bool, int, float]:
        value = result(trial, metric)
        return value is None, sets.index(measured_on(trial, metric)), (value or 0.0) * (1 if lowest else -1)

    sentences = [*verdicts(cells, metric, lowest=lowest), *cautions(trials, keys, metric)]
    return Report(title, sorted(trials, key=rank), list(trials), keys, cells, metric, lowest, sentences)


def render(report: Report, picture_side: int) -> str:
    """Return the HTML page of a report, with pictures of at most `picture_side` pixels in width and height."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("vae_lab.reporting", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"decimal": decimal, "shown": shown, "spanned": spanned}
    plots = dict.fromkeys(("rate_distortion", "curves", "parallel", "heat_map"))
    assert environment.loader is not None
    scripts = [get_plotlyjs(), environment.loader.get_source(environment, "report.js")[0]]
    return environment.get_template("report.html").render(
        report=report,
        completed=COMPLETED,
        failed=[trial for trial in report.trials if trial.status != COMPLETED],
        figures=plots | figures(report),
        beside=beside(report.metric),
        direction=direction(lowest=report.lowest),
        pictures={title: gallery(report, name, title, picture_side) for name, title in PICTURES.items()},
        pair=compared(report.named),
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - plotly's and ours
        hashes=" ".join(f"'sha256-{digest(script)}'" for script in scripts),
    )


def digest(script: str) -> str:
    """Return a script's SHA-256 hash in base64, as in a content security policy."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def figures(report: Report) -> dict[str, Markup | None]:
    """Return the plots by name, as JSON to embed in the page; None for a plot without data."""
    from vae_lab.reporting import curves, scatter

    known = [trial for trial in report.trials if trial.settings]
    drawn: dict[str, go.Figure | None] = {
        "rate_distortion": scatter.rate_distortion(report.cells, report.keys),
        "curves": curves.curves(report.trials, report.keys, report.metric),
    }
    if len(ranked_sets(report.trials, report.metric)) < 2:  # both colour runs by rank, which needs comparable results
        drawn |= {
            "parallel": curves.parallel(known, report.keys, report.metric, lowest=report.lowest),
            "heat_map": scatter.heat_map(report.cells, report.keys, report.metric, lowest=report.lowest),
        }
    return {name: None if figure is None else embedded(figure) for name, figure in drawn.items()}


def embedded(figure: "go.Figure") -> Markup:
    """Return a figure as JSON that is safe inside a script element; plotly escapes <, > and /."""
    return Markup(figure.to_json())  # noqa: S704


def gallery(report: Report, name: str, title: str, side: int) -> list[tuple[RunRecord, str, Markup]]:
    """Return (run, caption, HTML image) for each run that has the picture `name`."""
    found: list[tuple[RunRecord, str, Markup]] = []
    for trial in report.trials:
        caption = labelled(trial.chosen(report.keys)) if report.keys else ""
        picture = thumbnail(trial.folder / "figures" / f"{name}.png", side, f"{title} of {trial.name}: {caption}")
        if picture is not None:
            found.append((trial, caption, picture))
    return found


def compared(trials: Sequence[RunRecord]) -> dict[str, object] | None:
    """Return two runs, their different settings and their common metrics; None for any other number of runs."""
    if len(trials) != 2:
        return None
    first, second = trials
    settings, metrics = setting_differences(first, second), metric_pairs(first, second)
    return {"first": first, "second": second, "settings": settings, "metrics": metrics}

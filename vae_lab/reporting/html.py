"""The report page: one HTML file that works offline.

The page's own policy lets a browser load nothing from elsewhere and run only the two scripts that are written here,
which it knows by their hashes: what a foreign run folder might smuggle in would not run.
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
from vae_lab.reporting.ranking import beside, direction, measured_on, ranked_sets
from vae_lab.reporting.run_records import COMPLETED, RunRecord
from vae_lab.reporting.seed_groups import SeedGroup, cautions, decimal, grouped, result, spanned, verdicts
from vae_lab.runs.identity import WITHOUT_EFFECT

if TYPE_CHECKING:
    import plotly.graph_objects as go

PICTURES = {"samples": "Samples", "reconstructions": "Reconstructions"}
"""Files of figures/ that are shown of every run."""


class Report(NamedTuple):
    """What is told of some runs.

    Attributes:
        title: what the report is of.
        trials: the runs, best first, those without a result last.
        named: the runs in the order in which they were asked for.
        keys: the settings that vary.
        cells: the runs grouped by those, best first.
        metric: what they are ranked by.
        lowest: whether less of it is better.
        sentences: what is found, in words.
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
    """Return what is to be told of some runs.

    Args:
        trials: the runs.
        title: what they are.
        metric: what they are ranked by.
        ignored: settings that tell no cells apart.
        lowest: whether less of the metric is better.
    """
    ignored = [*ignored, *WITHOUT_EFFECT]
    seen = {trial.settings.get("images") for trial in trials if trial.status == COMPLETED or trial.images}
    ignored += ["images"] if len(seen) < 2 else []  # a run that failed before it had any is no set of its own
    keys = varied_keys([trial.settings for trial in trials if trial.settings], ignored)
    cells = grouped(trials, keys, metric, lowest=lowest)

    sets = list(dict.fromkeys([cell.images for cell in cells] + [measured_on(trial, metric) for trial in trials]))

    def rank(trial: RunRecord) -> tuple[bool, int, float]:
        value = result(trial, metric)
        return value is None, sets.index(measured_on(trial, metric)), (value or 0.0) * (1 if lowest else -1)

    sentences = [*verdicts(cells, metric, lowest=lowest), *cautions(trials, keys, metric)]
    return Report(title, sorted(trials, key=rank), list(trials), keys, cells, metric, lowest, sentences)


def render(report: Report, picture_side: int) -> str:
    """Return the page's HTML; pictures are at most `picture_side` pixels wide and high."""
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("vae_lab.reporting", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"decimal": decimal, "shown": shown, "spanned": spanned}
    plots = dict.fromkeys(("rate_distortion", "curves", "parallel", "heat_map"))
    scripts = [get_plotlyjs(), template_source(environment, "report.js")]
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


def template_source(environment: Environment, name: str) -> str:
    """Return a template's text as it is."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def digest(script: str) -> str:
    """Return a script's hash as a content security policy has it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def figures(report: Report) -> dict[str, Markup | None]:
    """Return the plots as JSON that can stand in a page; None where there is nothing to draw."""
    from vae_lab.reporting import curves, scatter

    known = [trial for trial in report.trials if trial.settings]
    drawn: dict[str, go.Figure | None] = {
        "rate_distortion": scatter.rate_distortion(report.cells, report.keys),
        "curves": curves.curves(report.trials, report.keys, report.metric),
    }
    if len(ranked_sets(report.trials, report.metric)) < 2:  # both colour runs by how good they are
        drawn |= {
            "parallel": curves.parallel(known, report.keys, report.metric, lowest=report.lowest),
            "heat_map": scatter.heat_map(report.cells, report.keys, report.metric, lowest=report.lowest),
        }
    return {name: None if figure is None else embedded(figure) for name, figure in drawn.items()}


def embedded(figure: "go.Figure") -> Markup:
    """Return a figure as JSON without a character that could end the script it stands in; plotly escapes those."""
    return Markup(figure.to_json())  # noqa: S704


def gallery(report: Report, name: str, title: str, side: int) -> list[tuple[RunRecord, str, Markup]]:
    """Return one picture of each run that has it, with its caption."""
    found: list[tuple[RunRecord, str, Markup]] = []
    for trial in report.trials:
        caption = labelled(trial.chosen(report.keys)) if report.keys else ""
        picture = thumbnail(trial.folder / "figures" / f"{name}.png", side, f"{title} of {trial.name}: {caption}")
        if picture is not None:
            found.append((trial, caption, picture))
    return found


def compared(trials: Sequence[RunRecord]) -> dict[str, object] | None:
    """Return what sets two runs apart; None for any other number of runs."""
    if len(trials) != 2:
        return None
    first, second = trials
    return {
        "first": first,
        "second": second,
        "settings": setting_differences(first, second),
        "metrics": metric_pairs(first, second),
    }

"""Plots of metrics over batches, and of settings as parallel coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from vae_lab.reporting.flat_config import ABSENT, Value, labelled, shown
from vae_lab.reporting.plot_style import COLOURS, name_once, ordered, padded, safe, styled
from vae_lab.reporting.run_records import RunRecord
from vae_lab.reporting.seed_groups import decimal, result
from vae_lab.system.reading import is_number

MAX_COLUMNS = 9
"""Maximum number of columns of metrics.csv in the menu."""


def parallel(trials: Sequence[RunRecord], keys: Sequence[str], metric: str, *, lowest: bool = True) -> go.Figure | None:
    """Return a parallel-coordinates plot: a line per run, an axis per varying setting, and an axis for the metric.

    The page's script highlights the lines that pass through a box drawn on an axis.
    """
    if not keys or not trials:
        return None
    results = {trial.name: result(trial, metric) for trial in trials}
    axes = [_axis([trial.settings.get(key, ABSENT) for trial in trials]) for key in keys]
    found = [value for value in results.values() if value is not None]
    last = _axis(list(found)) if found else {}
    figure = go.Figure()
    for trial in sorted(trials, key=lambda trial: results[trial.name] is not None):
        value = results[trial.name]
        heights = [axis[shown(trial.settings.get(key, ABSENT))] for key, axis in zip(keys, axes, strict=True)]
        figure.add_scatter(
            x=list(range(len(keys) + (value is not None))),
            y=heights + ([last[shown(value)]] if value is not None else []),
            mode="lines+markers",
            marker={"size": 5},
            line=_line(value, found, lowest=lowest),
            text=safe(
                f"{trial.name}: {labelled(trial.chosen(keys))}, "
                f"seed {trial.seed}, {decimal(value) if value is not None else trial.status}"
            ),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    for i, axis in enumerate([*axes, last]):
        _add_axis(figure, i, axis)
    titles = [safe(key) for key in (*keys, metric)]
    span = [-0.3, len(keys) + 0.4]
    xaxis = {"tickvals": list(range(len(titles))), "ticktext": titles, "range": span, "showline": False, "ticklen": 0}
    yaxis = {"visible": False, "range": [-0.06, 1.06]}
    return styled(figure, 420, xaxis=xaxis, yaxis=yaxis, dragmode="select", hovermode="closest")


def _axis(values: Sequence[Value]) -> dict[str, float]:
    """Return each value's position on an axis, in [0, 1]: linear or logarithmic for numbers, by rank for texts."""
    distinct = ordered(values)
    positions = [float(i) for i in range(len(distinct))]
    if all(is_number(value) for value in distinct):
        positions = [float(value) for value in distinct]  # pyright: ignore[reportArgumentType]
        if positions[0] > 0 and positions[-1] / positions[0] >= 20:
            positions = [math.log(position) for position in positions]
    width = positions[-1] - positions[0]
    return {
        shown(value): (position - positions[0]) / width if width else 0.5
        for value, position in zip(distinct, positions, strict=True)
    }


def _line(value: float | None, found: Sequence[float], *, lowest: bool) -> dict[str, object]:
    """Return plotly's style for a run's line: dark for good results, red and dotted without a result."""
    if value is None:
        return {"color": "#c2452d", "dash": "dot", "width": 1.5}
    rank = sum(other < value for other in found) / max(1, len(found) - 1)
    return {"color": sample_colorscale("Viridis", min(1.0, rank if lowest else 1 - rank))[0], "width": 2}


def _add_axis(figure: go.Figure, i: int, axis: dict[str, float]) -> None:
    """Add a vertical axis, and label as many of its values as fit."""
    figure.add_shape(type="line", x0=i, x1=i, y0=0, y1=1, line={"color": "#66727e", "width": 1}, layer="below")
    free = -1.0
    for text, height in sorted(axis.items(), key=lambda item: item[1]):
        if height < free:
            continue
        free = height + 0.06
        figure.add_annotation(
            x=i, y=height, text=safe(text), showarrow=False, xanchor="left", xshift=6, bgcolor="rgba(255,255,255,.75)"
        )


def curves(trials: Sequence[RunRecord], keys: Sequence[str], first: str) -> go.Figure | None:
    """Return a plot of a metric over batches, a line per run, with a menu of metrics; equal settings share a colour."""
    columns = chosen_columns(trials, first)
    if not columns:
        return None
    drawn = [trial for trial in trials if trial.curves]
    labels = [labelled(trial.chosen(keys)) or "all runs" for trial in drawn]
    distinct = list(dict.fromkeys(labels))
    figure = go.Figure()
    for trial, label in zip(drawn, labels, strict=True):
        steps, values = trial.curves.get(columns[0], ([], []))
        figure.add_scatter(
            x=steps,
            y=[_short(value) for value in values],
            mode="lines+markers" if len(steps) < 10 else "lines",
            name=safe(label),
            line={"color": COLOURS[distinct.index(label) % len(COLOURS)], "width": 1.5},
            text=safe(f"{trial.name}: {label}, seed {trial.seed}"),
            hovertemplate="%{text}<br>batch %{x}: %{y:.5g}<extra></extra>",
        )
    name_once(figure)
    buttons = [_button(drawn, column) for column in columns]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.16, "yanchor": "top", "direction": "down"}
    return styled(
        figure, 460, updatemenus=[menu], xaxis_title="batches", yaxis=buttons[0]["args"][1]["yaxis"], margin_t=70
    )


def chosen_columns(trials: Sequence[RunRecord], first: str) -> list[str]:
    """Return the columns of metrics.csv to draw, by name: `first` in validation, other validation, then training.

    Columns with fewer than three points in every run come last.
    """
    names = dict.fromkeys(name for trial in trials for name in trial.curves if name.startswith(("val/", "train/")))
    drawable = {name for name in names if any(len(trial.curves.get(name, ((),))[0]) > 2 for trial in trials)}
    wanted = first.replace("test/", "val/")

    def rank(name: str) -> tuple[bool, bool, bool, str]:
        return name not in drawable, name != wanted, not name.startswith("val/"), name

    return sorted(names, key=rank)[:MAX_COLUMNS]


def _button(trials: Sequence[RunRecord], column: str) -> dict[str, Any]:
    """Return plotly's menu entry that shows a column of metrics.csv."""
    found = [trial.curves.get(column, ([], [])) for trial in trials]
    data = {"x": [steps for steps, _ in found], "y": [[_short(value) for value in values] for _, values in found]}
    axis = {"title": {"text": safe(column)}, "range": _view([values for _, values in found])}
    return {"label": safe(column), "method": "update", "args": [data, {"yaxis": axis}]}


def _view(lines: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the vertical range shown at first, without the highest 3 % of values, those of the start of training."""
    values = sorted(value for line in lines for value in line)
    if not values:
        return None
    return padded((values[0], values[min(len(values) - 1, int(0.97 * len(values)))]))


def _short(value: float) -> float:
    """Return a value rounded to six significant digits, to keep the page small."""
    return float(f"{value:.6g}")

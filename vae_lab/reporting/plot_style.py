"""Colours, layout and number formats of all plots."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import qualitative

from vae_lab.reporting.flat_config import Value, shown
from vae_lab.system.reading import is_number

COLOURS = ["#2f6db3", "#d1602f", "#2e8b57", "#8d55b4", "#b8860b", "#c23b6b", "#1f8a8a", "#6b7280", *qualitative.Dark24]
MAX_LEGEND = 14
"""Maximum number of legend entries; hovering shows the others."""
LONG_NAME = 45
"""Number of characters above which the legend is placed below the plot."""


def safe(text: str) -> str:
    """Return a text with HTML escaped, because plotly interprets some HTML."""
    return html.escape(text, quote=False)


def traces(figure: go.Figure) -> list[Any]:
    """Return the traces of a figure as a list."""
    return list(figure.data)


def styled(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Apply the page's style to a figure, and return it; a legend with long names is placed below the plot."""
    if max((len(trace.name or "") for trace in traces(figure)), default=0) > LONG_NAME:
        figure.update_layout(legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
        height += 140
    return figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c2733"},
        hoverlabel={"align": "left"},
        **layout,
    )


def ordered(values: Sequence[Value]) -> list[Value]:
    """Return the distinct values: first the numbers, sorted, then the texts, sorted."""
    distinct = {shown(value): value for value in values}.values()
    return sorted(distinct, key=lambda v: (not is_number(v), v if is_number(v) else 0, shown(v)))  # pyright: ignore[reportCallIssue, reportArgumentType]


def name_once(figure: go.Figure) -> None:
    """Show each trace name only once in a figure's legend."""
    seen: set[str] = set()
    for trace in traces(figure):
        trace.legendgroup, trace.showlegend = trace.name, trace.name not in seen and len(seen) < MAX_LEGEND
        seen.add(trace.name)


def padded(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest value, moved outwards by 8 % of their distance."""
    room = (max(values) - min(values)) * 0.08 or 1.0
    return min(values) - room, max(values) + room


def first_of(keys: Sequence[str], wanted: str) -> str | None:
    """Return `wanted` if it is in `keys`, else the first key, or None if there is no key."""
    return wanted if wanted in keys else next(iter(keys), None)

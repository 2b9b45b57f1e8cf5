"""The tab with a map of the training images' latents, whose points are decoded where it is clicked."""

from typing import Any

import plotly.graph_objects as go
import streamlit as st  # pyright: ignore[reportMissingImports]
import torch

from vae_lab.exploring.explored import MAPPED, Explored
from vae_lab.exploring.tabs.latents import show_decoded
from vae_lab.exploring.widgets import errors_shown, progress_shown
from vae_lab.reporting.plot_style import COLOURS, safe

CELLS = 40
"""Rows and columns of the grid of points that can be clicked, because a chart tells clicks on points alone."""
MARGIN = 0.05


@st.fragment
def show_plane(explored: Explored) -> None:
    """Show the principal plane of the training images' latents, and the image at the place that was clicked last."""
    with errors_shown():
        with progress_shown("training images"):
            explored.plane()
        left, right = st.columns([1, 2], gap="medium")
        with right:
            chart: dict[str, Any] = {"on_select": "rerun", "selection_mode": "points", "config": {"scrollZoom": True}}
            event: Any = st.plotly_chart(map_figure(explored), key="plane", **chart)
        points = event["selection"]["points"]
        x, y = (float(points[0][axis]) for axis in "xy") if points else (0.0, 0.0)
        z = explored.plane().to_latents(torch.tensor([[x, y]]))[0]
        with left:
            caption = f"decoded at ({x:.2f}, {y:.2f})" + ("" if points else "; click on the map")
            show_decoded(explored, z, "plane class", "map", caption)


def map_figure(explored: Explored) -> go.Figure:
    """Return the figure of the map: points of training images by class, and an invisible grid to click on."""
    plane = explored.plane()
    points, labels = plane.coordinates, explored.encoded().labels[:MAPPED]
    figure = go.Figure()
    for k in labels.unique().tolist():
        x, y = points[labels == k].T.numpy()
        figure.add_scatter(
            x=x, y=y, mode="markers", name=safe(explored.class_name(k)),
            marker={"size": 6, "color": COLOURS[k % len(COLOURS)], "opacity": 0.7},
            selected={"marker": {"size": 12}}, unselected={"marker": {"opacity": 0.7}},
            hovertemplate="(%{x:.2f}, %{y:.2f})",
        )  # fmt: skip
    low, high = points.amin(0), points.amax(0)
    spare = MARGIN * (high - low)
    sides = [torch.linspace(float(a), float(b), CELLS) for a, b in zip(low - spare, high + spare, strict=True)]
    x, y = torch.cartesian_prod(*sides).T.numpy()
    figure.add_scatter(
        x=x, y=y, mode="markers", showlegend=False, hoverinfo="none",
        marker={"size": 9, "color": "black", "opacity": 0},
        selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0}},
    )  # fmt: skip
    assert plane.explained is not None
    first, second = plane.explained
    figure.update_layout(
        height=560, margin={"l": 0, "r": 0, "t": 10, "b": 0}, hovermode="closest", hoverdistance=-1,
        xaxis_title=f"first principal direction, {first:.0%} of the variance", yaxis_title=f"second, {second:.0%}",
        legend={"orientation": "h", "y": -0.12},
        showlegend=len(labels.unique()) > 1,
    )  # fmt: skip
    return figure

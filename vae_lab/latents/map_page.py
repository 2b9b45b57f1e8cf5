"""A map of latents as a page: one HTML file that works offline and shows the image of each point.

As on the report page, the content security policy blocks external resources and other scripts than the page's two.
"""

import base64
import io
import json
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from vae_lab.data.files.listing import printable
from vae_lab.latents.coloring import NONE, UNKNOWN, Coloring
from vae_lab.latents.map_figure import axis_titles
from vae_lab.latents.projection import Projection
from vae_lab.latents.tables import Block
from vae_lab.reporting.html import digest, embedded
from vae_lab.reporting.plot_style import safe, traces


def render_map(found: Projection, coloring: Coloring, caption: str, block: Block) -> str:
    """Return the page as a string of HTML.

    Args:
        found: the points.
        coloring: their values.
        caption: what the map shows.
        block: the images, whose pixels are thumbnails.
    """
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("vae_lab.latents", "templates"), autoescape=True, undefined=StrictUndefined
    )
    assert environment.loader is not None
    scripts = [get_plotlyjs(), environment.loader.get_source(environment, "map.js")[0]]
    plot = map_plot(found, coloring)
    points = {"texts": describe_points(coloring, block), **tile_sheet(block.pixels)}
    return environment.get_template("map.html").render(
        caption=caption,
        figure=embedded(plot),
        legend=len(traces(plot)) > 1,
        points=as_json(points),
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - plotly's and ours
        hashes=" ".join(f"'sha256-{digest(script)}'" for script in scripts),
    )


def as_json(content: object) -> Markup:
    """Return JSON that is safe inside a script element."""
    return Markup(json.dumps(content).replace("<", "\\u003c"))  # noqa: S704


def describe_points(coloring: Coloring, block: Block) -> list[str]:
    """Return the text of each image: its path, its class if it has one, and its value unless that is the class."""
    parts = [block.path, [f"class {name}" if name else "" for name in block.class_]]
    if coloring.texts is not block.class_:
        parts.append([f"{coloring.title}: {text}" if text else "" for text in coloring.texts])
    return [printable(" · ".join(filter(None, row))) for row in zip(*parts, strict=True)]


def tile_sheet(pixels: UInt8[Tensor, "n channels side side"]) -> dict[str, Any]:
    """Return all images as the tiles of one, as the URL of a WebP file, with the number of columns and their side."""
    columns = math.ceil(len(pixels) ** 0.5)
    sheet = make_grid(pixels, nrow=columns, padding=0).permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="WEBP", quality=80)
    url = f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"tiles": url, "columns": min(columns, len(pixels)), "side": pixels.shape[-1]}


def map_plot(found: Projection, coloring: Coloring) -> go.Figure:
    """Return the plot: a trace for each group, or one with a colour bar."""
    figure = go.Figure()
    size = max(4.0, min(9.0, 300 / len(found.coordinates) ** 0.5))

    def add(rows: list[int], name: str, **marker: Any) -> None:
        x, y = found.coordinates[rows].T.tolist() if rows else ([], [])
        figure.add_scatter(
            x=x, y=y, customdata=rows, mode="markers", name=safe(printable(name)), hoverinfo="none",
            marker={"size": size, "opacity": 0.8, **marker},
        )  # fmt: skip

    if coloring.numbers is None:
        for name, (colour, rows) in coloring.groups().items():
            add(rows, name, color=colour)
    else:
        missing = np.isnan(coloring.numbers)
        add(np.flatnonzero(missing).tolist(), NONE, color=UNKNOWN)
        rows = np.flatnonzero(~missing).tolist()
        bar = {"title": {"text": safe(printable(coloring.title))}, "orientation": "h", "thickness": 12}
        add(rows, "", color=coloring.numbers[rows].tolist(), colorscale="Viridis", colorbar=bar, showscale=True)
    first, second = axis_titles(found)
    return figure.update_layout(
        template="simple_white",
        margin={"l": 60, "r": 10, "t": 30, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#1c2733"},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "itemsizing": "constant",
            "title": {"text": safe(printable(coloring.title))},
        },
        showlegend=coloring.numbers is None and len(coloring.groups()) > 1,
        xaxis={"title": {"text": first, "font": {"size": 13}}},
        yaxis={"title": {"text": second, "font": {"size": 13}}, "scaleanchor": "x"},
        hovermode="closest",
        dragmode="pan",
    )

"""A map of latents as a picture."""

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from vae_lab.latents.coloring import UNKNOWN, Coloring
from vae_lab.latents.projection import Projection

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def axis_titles(found: Projection) -> tuple[str, str]:
    """Return what the two axes are."""
    if found.explained is not None:
        first, second = (
            f"principal component {i} ({100 * x:.0f} % of variance)" for i, x in enumerate(found.explained, 1)
        )
        return first, second
    return f"{NAMES[found.method]} 1 (no unit)", f"{NAMES[found.method]} 2 (no unit)"


def describe_map(found: Projection, coloring: Coloring, nlatent: int, images: str) -> str:
    """Return what a map shows, as a sentence.

    Args:
        found: the points.
        coloring: their values.
        nlatent: number of latents.
        images: the images in words, such as "5,000 validation images".
    """
    how = f"{NAMES[found.method]} of the {nlatent:,} latents"
    if found.explained is None:
        how += ", which keeps neighbours together: distances between groups mean little"
    colour = (
        f"coloured by {coloring.title}" if any(coloring.texts) else f"without colours, for lack of a {coloring.title}"
    )
    return f"{images}, each a point at its posterior mean, placed by {how}; {colour}."


def map_figure(found: Projection, coloring: Coloring, caption: str) -> "Figure":
    """Return a map with a legend or a colour bar, and its caption above it."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(8, 6.6), layout="constrained")
    axes = figure.subplots()
    size = max(3.0, min(30.0, 30_000 / len(found.coordinates)))
    if coloring.numbers is None:
        draw_groups(axes, found, coloring, size)
    else:
        x, y = found.coordinates.T.numpy()
        missing = np.isnan(coloring.numbers)
        axes.scatter(x[missing], y[missing], size, color=UNKNOWN, linewidths=0)
        shown = axes.scatter(x[~missing], y[~missing], size, c=coloring.numbers[~missing], linewidths=0, alpha=0.8)
        figure.colorbar(shown, label=plain(coloring.title))
    first, second = axis_titles(found)
    axes.set(xlabel=first, ylabel=second, aspect="equal", adjustable="datalim")
    figure.suptitle(plain(textwrap.fill(caption, 118)), x=0.01, ha="left", fontsize=9)
    return figure


def draw_groups(axes: "Axes", found: Projection, coloring: Coloring, size: float) -> None:
    """Draw the points of each group in its colour, with a legend if there are several groups."""
    groups = coloring.groups()
    for name, (colour, rows) in groups.items():
        x, y = found.coordinates[rows].T.numpy()
        axes.scatter(x, y, size, color=colour, linewidths=0, alpha=0.7, label=plain(f" {textwrap.shorten(name, 30)}"))
    if len(groups) > 1:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0, "fontsize": 9}
        legend = axes.legend(title=plain(coloring.title), markerscale=(40 / size) ** 0.5, **beside)
        for handle in legend.legend_handles:
            handle.set_alpha(1)  # pyright: ignore[reportOptionalMemberAccess]


def plain(text: str) -> str:
    """Return a text that matplotlib shows letter by letter, without formulas between dollar signs."""
    return text.replace("$", r"\$")

"""Figures of anomaly detection: ROC curves, the most anomalous images, heat maps."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from vae_lab.data.grids import Grid, grid
from vae_lab.detection.metrics import auroc, roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = Float[Tensor, "n channels height width"]
Heat = Float[Tensor, "n height width"]
Colours = Float[Tensor, "n 3 height width"]

FLAGGED = "#c2452d"
TILE = 1.25
"""Width of a tile of the contact sheet in inches; the image takes the share `FILLED` of it."""
FILLED = 0.88
CAPTION = 0.42
"""Height of the caption, in tile widths."""
LONGEST_NAME = 18


def roc_figure(scores: dict[str, tuple[Float[Tensor, " _n"], Float[Tensor, " _m"]]]) -> "Figure":
    """Return a figure with the ROC curve of each anomaly score, given its values for normal and anomalous images.

    The right panel repeats the left one with a logarithmic axis, to show low false alarm rates.
    """
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    whole, rare = figure.subplots(1, 2)
    areas = {name: auroc(*pair) for name, pair in scores.items()}
    fewest = 0.5 / max((len(normal) for normal, _ in scores.values()), default=1)
    for name in sorted(areas, key=lambda name: -areas[name]):
        false, true = (shares.numpy() for shares in roc(*scores[name]))
        for axes in (whole, rare):
            axes.plot(false.clip(fewest), true, label=f"{name}: AUROC {areas[name]:.4f}", linewidth=1.5)
    diagonal = torch.logspace(-6, 0, 200).numpy()
    for axes in (whole, rare):
        axes.plot(diagonal, diagonal, color="grey", linewidth=0.8, linestyle=":")
        axes.set(xlabel="normal images flagged", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.25)
    whole.set(ylabel="anomalous images flagged", xlim=(-0.02, 1.02), title="receiver operating characteristic")
    rare.set(xscale="log", xlim=(min(fewest, 0.1), 1), title="the same on a logarithmic axis")
    if scores:
        whole.legend(loc="lower right", fontsize=9)
    return figure


def contact_sheet(
    images: Image,
    scores: Float[Tensor, " n"],
    p_values: Float64[Tensor, " n"],
    names: list[str],
    flagged: Bool[Tensor, " n"],
    *,
    ncolumns: int = 8,
) -> "Figure":
    """Return a figure of the images, most anomalous first, with name, score and p-value below each.

    Flagged images are framed in red.

    Images of equal scores keep their order. Pass at most about a hundred images.
    """
    from matplotlib.figure import Figure  # takes half a second

    if len(names) != len(images) or len(images) == 0:
        raise ValueError(f"{len(images)} images and {len(names)} names; pass at least 1 image and one name for each.")
    aspect = images.shape[-2] / images.shape[-1]
    nrows = -(-len(images) // ncolumns)
    row = aspect + CAPTION  # a tile is one unit wide
    figure = Figure(figsize=(TILE * ncolumns, TILE * row * nrows))
    axes = figure.add_axes((0, 0, 1, 1))
    for place, i in enumerate(scores.sort(descending=True, stable=True).indices.tolist()):
        left, top = place % ncolumns + (1 - FILLED) / 2, place // ncolumns * row + (1 - FILLED) / 2
        caption = f"{_printable(names[i])}\n{scores[i]:.4g}   p = {p_values[i]:#.2g}"
        _tile(axes, images[i], (left, left + FILLED, top + FILLED * aspect, top), caption, bool(flagged[i]))
    axes.set(xlim=(0, ncolumns), ylim=(row * nrows, 0), aspect="auto")
    axes.axis("off")
    return figure


def heat_map(images: Image, heat: Heat, *, full: float | None = None) -> Colours:
    """Return the images in grey, overlaid with colours that are brighter at more unusual places.

    Args:
        images: pixels in [0, 1].
        heat: how unusual each place is, as `Score.heat` returns it.
        full: the heat that gets the brightest colour. Pass a high quantile of the heat of normal images to compare
            images with each other. The default is the largest heat of each image, so every image has a bright spot.
    """
    from matplotlib import colormaps  # takes half a second

    top = heat.amax((-2, -1), keepdim=True) if full is None else heat.new_tensor(full)
    heat = (heat / top.clamp(min=1e-6)).clamp(0, 1)
    table = torch.as_tensor(colormaps["inferno"](torch.linspace(0, 1, 256).numpy()))[:, :3].to(images)
    colours = table[(heat * 255).round().long()].movedim(-1, 1)
    opacity = heat[:, None].sqrt()
    return (1 - opacity) * 0.5 * images.mean(1, keepdim=True) + opacity * colours


def heat_sheet(images: Image, heat: Heat, *, npairs: int = 4, full: float | None = None) -> Grid:
    """Return a grid of images, each beside its heat map, with `npairs` such pairs per row.

    See `heat_map` for `full`.
    """
    shown = images.expand(-1, 3, -1, -1)
    return grid(torch.stack([shown, heat_map(images, heat, full=full)], 1).flatten(0, 1), 2 * npairs)


def _tile(axes: "Axes", image: Tensor, extent: tuple[float, float, float, float], caption: str, flagged: bool) -> None:
    """Draw an image with its caption on `axes`; `extent` is (left, right, bottom, top)."""
    from matplotlib.patches import Rectangle

    left, right, bottom, top = extent
    axes.imshow(image.detach().float().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).cpu().numpy(), extent=extent)
    if flagged:
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=FLAGGED, linewidth=3))
    axes.text(
        (left + right) / 2,
        bottom + 0.05,
        caption,
        ha="center",
        va="top",
        fontsize=7,
        color=FLAGGED if flagged else "black",
        parse_math=False,  # a file may be called $.png
    )


def _printable(name: str) -> str:
    """Return a name with "?" for letters that the font lacks, shortened in the middle if it is long."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    name = "".join(letter if letter.isprintable() and ord(letter) in known else "?" for letter in name)
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"

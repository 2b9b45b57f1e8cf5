"""A figure of cost against image size, on logarithmic axes."""

import math
from typing import TYPE_CHECKING, Any

from vae_lab.profiling.power_law import PowerLaw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"training": "#c2452d", "generation": "#2d6fc2", "inference": "#5a8a3a"}


def cost_figure(result: dict[str, Any]) -> "Figure":
    """Return a figure with four plots of a result of `profile_sizes`: weights, arithmetic, memory and time.

    Dots are measurements, lines are fitted power laws, and legends show the exponents.
    """
    from matplotlib.figure import Figure  # importing it takes half a second

    rows, laws = {int(size): row for size, row in result["sizes"].items()}, result["exponents"]
    figure = Figure(figsize=(11, 8), layout="constrained")
    weights, arithmetic, memory, time = figure.subplots(2, 2).flat
    draw(weights, {size: row["parameters"] for size, row in rows.items()}, laws["parameters"], "weights", "black")
    linear = {size: row["parameters"] * row["linear_share"] for size, row in rows.items()}
    weights.plot(list(linear), list(linear.values()), ":", color="grey", label="in linear layers")
    for name, colour in COLOURS.items():
        counts = {size: row["multiplications"][name] for size, row in rows.items()}
        draw(arithmetic, counts, laws[f"multiplications {name}"], name, colour)
    for name in ("training", "generation"):
        bytes_per_image = {size: row["memory_per_image"][name] for size, row in rows.items()}
        draw(memory, bytes_per_image, laws[f"memory_per_image {name}"], name, COLOURS[name])
        seconds = {size: row["seconds"][name] for size, row in rows.items()}
        draw(time, seconds, laws[f"seconds {name}"], name, COLOURS[name])
    titles = ("weights", "multiply-accumulates per image", "bytes per additional image", "seconds per image")
    for axes, title in zip((weights, arithmetic, memory, time), titles, strict=True):
        finish(axes, list(rows), title)
    figure.suptitle(result["device"], fontsize=10)
    return figure


def draw(axes: "Axes", costs: dict[int, int | float], law: PowerLaw, name: str, colour: str) -> None:
    """Draw measured costs and their fitted power law; the legend shows its exponent with interval."""
    label = f"{name}: {law.exponent:.2f}" + (f" ({law.low:.2f} to {law.high:.2f})" if not math.isnan(law.low) else "")
    axes.plot(list(costs), list(costs.values()), "o", color=colour, markersize=5)
    axes.plot(list(costs), [law.at(float(size)) for size in costs], "--", color=colour, linewidth=1, label=label)


def finish(axes: "Axes", sizes: list[int], title: str) -> None:
    """Set a plot's logarithmic scales, title, labels and legend."""
    axes.set(xscale="log", yscale="log", xlabel="image side in pixels", title=title)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, title="exponent with 95 % interval", title_fontsize=8)

"""The loss curve of a run, as a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.loggers import Logger

from vae_lab.system.atomic import whole
from vae_lab.training.loggers.csv import MetricsTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[list[float], list[float]]
"""Steps and values."""
PANELS = {
    "loss": {"train/loss": "training loss", "val/neg_elbo": "negative ELBO of validation images"},
    "rate": {"train/rate": "training rate, the KL to the prior", "val/rate": "rate of validation images"},
}
"""Titles of the panels, and their metrics with the words for them."""
CAPTION = (
    "Losses over the optimizer steps, lower is better, and the rate, a part of them; the highest first values are cut."
)


def write_curves(path: Path, loggers: Sequence[Logger]) -> None:
    """Draw the metrics of the run's metrics.csv, if it has any."""
    for table in loggers:
        if isinstance(table, MetricsTable):
            table.save()
            curves = read_curves(table.path)
            if curves:
                with whole(path) as temporary:
                    curves_figure(curves).savefig(temporary, format="png", dpi=110)


def read_curves(path: Path) -> dict[str, Curve]:
    """Return the finite values of each metric of `PANELS` in a table of metrics."""
    curves: dict[str, Curve] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name in (name for panel in PANELS.values() for name in panel):
                    if row.get(name) and np.isfinite(float(row[name])):
                        steps, values = curves.setdefault(name, ([], []))
                        steps.append(float(row["step"]))
                        values.append(float(row[name]))
    return curves


def curves_figure(curves: dict[str, Curve]) -> "Figure":
    """Return a figure with the losses on the left and the rate on the right."""
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(10, 3.8))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=0.82, wspace=0.17)
    figure.suptitle(CAPTION, x=0.01, ha="left", fontsize=9)
    for axes, (title, names) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        shown = {words: curves[name] for name, words in names.items() if name in curves}
        for (words, (steps, values)), colour in zip(shown.items(), ("#3b6fb6", "#c2452d"), strict=False):
            few = "o" if len(steps) < 30 else None
            axes.plot(steps, values, color=colour, label=words, linewidth=1.2, marker=few, markersize=3)
        axes.set(title=title, xlabel="step", ylabel="nats per image")
        if shown:
            axes.set_ylim(*limits([values for _, values in shown.values()]))
            axes.legend(fontsize=8)
    return figure


def limits(columns: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the range of an axis that leaves out the highest values in the first tenth of each curve."""
    kept = np.concatenate([values[len(values) // 10 :] for values in columns])
    room = 0.05 * (kept.max() - kept.min()) or 1.0
    return float(kept.min() - room), float(kept.max() + room)

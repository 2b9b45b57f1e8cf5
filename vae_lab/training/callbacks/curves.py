"""The loss curve of a run, as a picture."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from lightning.pytorch.loggers import Logger

from vae_lab.system.atomic import whole
from vae_lab.training.loggers.csv import MetricsTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[list[float], list[float]]
"""Steps and values."""


class Panel(NamedTuple):
    """A part of the figure.

    Attributes:
        title: of the panel.
        unit: of its values.
        metrics: columns of metrics.csv, and the words for them.
        logarithmic: whether the axis of the values is.
    """

    title: str
    unit: str
    metrics: dict[str, str]
    logarithmic: bool = False


BOUND = {"train/neg_elbo": "training batches", "val/neg_elbo": "validation images"}
LOSS = Panel("loss", "nats per image", {"train/loss": "training loss", "val/neg_elbo": "validation, negative ELBO"})
NEG_ELBO = Panel("negative ELBO, lower is better", "nats per image", BOUND)
RATE = Panel(
    "rate, the KL to the prior", "nats per image", {"train/rate": "training batches", "val/rate": "validation images"}
)
ADVERSARIAL = Panel(
    "adversarial losses",
    "",
    {"train/generator_loss": "of decoder and encoder", "train/discriminator_loss": "of the discriminator"},
)
DISTANCES = {"kid_": "samples", "rkid_": "reconstructions"}
PARTS = ("train/", "val/")
DISTANCE = "KID x 1000, lower is better"
CAPTION = (
    "Losses over the optimizer steps, lower is better, and the rate, a part of them; the highest first values are cut."
)
ADVERSARIAL_CAPTION = (
    "Metrics over the optimizer steps. The training loss is left out, because adversaries and stages change its terms."
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
    """Return the finite values of each metric in a table of metrics, and "train/neg_elbo", the sum of two of them."""
    curves: dict[str, Curve] = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                numbers = {name: float(text) for name, text in row.items() if text and name.startswith(PARTS)}
                if {"train/distortion", "train/rate"} <= numbers.keys():
                    numbers["train/neg_elbo"] = numbers["train/distortion"] + numbers["train/rate"]
                for name, value in numbers.items():
                    if np.isfinite(value):
                        steps, values = curves.setdefault(name, ([], []))
                        steps.append(float(row["step"]))
                        values.append(value)
    return curves


def choose_panels(curves: Iterable[str]) -> list[Panel]:
    """Return the panels that show a run by the names of its metrics."""
    if not ADVERSARIAL.metrics.keys() & {*curves}:
        return [LOSS, RATE]
    distances = {f"val/{name}": words for name, words in DISTANCES.items()}
    measured = {name: distances[key] for name in curves for key in distances if name.startswith(key)}
    third = Panel(DISTANCE, "", measured, logarithmic=True) if measured else ADVERSARIAL
    return [NEG_ELBO, RATE, third]


def curves_figure(curves: dict[str, Curve]) -> "Figure":
    """Return a figure with the losses on the left, the rate and, of adversarial runs, how good samples are."""
    from matplotlib.figure import Figure  # takes half a second

    panels = choose_panels(curves)
    figure = Figure(figsize=(10 if len(panels) == 2 else 14, 3.8), layout="constrained")
    figure.suptitle(CAPTION if panels[0] is LOSS else ADVERSARIAL_CAPTION, x=0.01, ha="left", fontsize=9)
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        shown = {words: curves[name] for name, words in panel.metrics.items() if name in curves}
        for (words, (steps, values)), colour in zip(shown.items(), ("#3b6fb6", "#c2452d"), strict=False):
            few = "o" if len(steps) < 30 else None
            axes.plot(steps, values, color=colour, label=words, linewidth=1.2, marker=few, markersize=3)
        axes.set(title=panel.title, xlabel="step", ylabel=panel.unit)
        if shown and panel.logarithmic and min(min(values) for _, values in shown.values()) > 0:
            axes.set_yscale("log")
        elif shown:
            axes.set_ylim(*limits([values for _, values in shown.values()]))
        if shown:
            axes.legend(fontsize=8)
    return figure


def limits(columns: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the range of an axis that leaves out the highest values in the first tenth of each curve."""
    kept = np.concatenate([values[len(values) // 10 :] for values in columns])
    room = 0.05 * (kept.max() - kept.min()) or 1.0
    return float(kept.min() - room), float(kept.max() + room)

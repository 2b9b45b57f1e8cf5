"""Plots of runs: rate against distortion, and a heat map over two settings."""

from collections.abc import Sequence

import plotly.graph_objects as go

from vae_lab.reporting.flat_config import Value, labelled, shown
from vae_lab.reporting.plot_style import COLOURS, first_of, name_once, ordered, padded, safe, styled, traces
from vae_lab.reporting.seed_groups import SeedGroup, decimal, result

LATENTS = "model.nlatent"
BETA = "objective.beta"
LEARNING_RATE = "optimizer.lr"
SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "triangle-down", "x"]


def rate_distortion(cells: Sequence[SeedGroup], keys: Sequence[str]) -> go.Figure | None:
    """Return a scatter plot of rate and distortion, with latent size as colour and beta as symbol.

    If one of these does not vary, the first varying setting replaces it. The negative ELBO is constant on dotted lines.
    """
    colour = first_of(keys, LATENTS)
    symbol = first_of([key for key in keys if key != colour], BETA)
    colours, symbols = ([*ordered([c.settings[k] for c in cells])] if k else [None] for k in (colour, symbol))
    figure = go.Figure()
    for cell in cells:
        points = [
            trial for trial in cell.trials if None not in (result(trial, "test/rate"), result(trial, "test/distortion"))
        ]
        if not points:
            continue
        values = [cell.settings.get(key) if key else None for key in (colour, symbol)]
        figure.add_scatter(
            x=[trial.metrics["test/rate"] for trial in points],
            y=[trial.metrics["test/distortion"] for trial in points],
            mode="markers",
            name=safe(labelled({k: v for k, v in zip((colour, symbol), values, strict=True) if k}) or "all runs"),
            marker={
                "color": COLOURS[_place(colours, values[0]) % len(COLOURS)],
                "symbol": SYMBOLS[_place(symbols, values[1]) % len(SYMBOLS)],
                "size": 10,
                "opacity": 0.85,
            },
            text=[safe(f"{trial.name}: {cell.label}, seed {trial.seed}") for trial in points],
            hovertemplate="%{text}<br>rate %{x:.2f}, distortion %{y:.2f}<extra></extra>",
        )
    if not traces(figure):
        return None
    name_once(figure)
    _add_isolines(figure)
    return styled(figure, 480, xaxis_title="rate, nats", yaxis_title="distortion, nats")


def _place(values: Sequence[Value], value: Value) -> int:
    return [shown(v) for v in values].index(shown(value))


def _add_isolines(figure: go.Figure) -> None:
    """Add lines of constant rate + distortion across the plot."""
    rates = [x for trace in traces(figure) for x in trace.x]
    distortions = [y for trace in traces(figure) for y in trace.y]
    xs, ys = (padded(values) for values in (rates, distortions))
    low, high = xs[0] + ys[0], xs[1] + ys[1]
    for i in range(1, 8):
        total = low + (high - low) * i / 8
        left, right = max(xs[0], total - ys[1]), min(xs[1], total - ys[0])
        figure.add_scatter(
            x=[left, right],
            y=[total - left, total - right],
            mode="lines",
            line={"color": "#c3cad1", "dash": "dot", "width": 1},
            hovertemplate=f"-ELBO {decimal(total)}<extra></extra>",
            showlegend=False,
        )
    figure.update_layout(xaxis_range=xs, yaxis_range=ys)


def heat_map(cells: Sequence[SeedGroup], keys: Sequence[str], metric: str, *, lowest: bool = True) -> go.Figure | None:
    """Return a heat map of the best group's mean by learning rate and latent size, or by other varying settings."""
    y = first_of(keys, LATENTS)
    x = first_of([key for key in keys if key != y], LEARNING_RATE)
    if x is None or y is None:
        return None
    columns, rows = (ordered([cell.settings[key] for cell in cells]) for key in (x, y))
    best: dict[tuple[str, str], SeedGroup] = {}
    for cell in cells:  # best first
        best.setdefault((shown(cell.settings[y]), shown(cell.settings[x])), cell)
    table = [[best.get((shown(row), shown(column))) for column in columns] for row in rows]
    figure = go.Figure(
        go.Heatmap(
            x=[safe(shown(column)) for column in columns],
            y=[safe(shown(row)) for row in rows],
            z=[[cell.mean if cell else None for cell in row] for row in table],
            text=[[_square(cell) for cell in row] for row in table],
            customdata=[[safe(cell.label) if cell else "" for cell in row] for row in table],
            texttemplate="%{text}",
            hovertemplate="%{customdata}<br>%{text}<extra></extra>",
            hoverongaps=False,
            colorscale="Viridis" if lowest else "Viridis_r",
            colorbar={"title": safe(metric)},
            xgap=2,
            ygap=2,
        )
    )
    figure.update_layout(xaxis={"type": "category", "title": safe(x)}, yaxis={"type": "category", "title": safe(y)})
    for i, row in enumerate(table):
        for j, cell in enumerate(row):
            if cell is not None and cell.mean is None:
                figure.add_annotation(x=j, y=i, text="failed", showarrow=False, font={"color": "#a3241c"})
    return styled(figure, max(260, 130 + 60 * len(rows)))


def _square(cell: SeedGroup | None) -> str:
    """Return the text in a cell of the heat map: mean and number of seeds; "" without a result."""
    if cell is None or cell.mean is None:
        return ""
    return f"{decimal(cell.mean)}<br>{len(cell.values)} seed{'s' if len(cell.values) > 1 else ''}"

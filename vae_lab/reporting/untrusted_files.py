"""Readers for files of untrusted or incomplete run folders.

Every reader returns the content or raises Unreadable with a short reason. Links are not followed, so that a report on
an untrusted folder cannot show other files.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from vae_lab.system.reading import Unreadable, is_number, read_text

MAX_NESTING = 50
MAX_TABLE_BYTES = 100_000_000
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # CSafeLoader is ten times as fast, but optional in PyYAML

Curve = tuple[list[int], list[float]]
"""Steps and values."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file, which must be a mapping."""
    content = _load(path)
    if not isinstance(content, dict):
        raise Unreadable(f"{path.name} contains no settings or results")
    return {str(key): value for key, value in content.items()}


def read_overrides(path: Path) -> list[str]:
    """Return the list of overrides in Hydra's overrides.yaml."""
    overrides = _load(path)
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise Unreadable(f"{path.name} is not a list of overrides")
    if not all(override.isprintable() for override in overrides):
        raise Unreadable(f"{path.name} contains control characters")
    return overrides


def _load(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a YAML file, after checking its nesting and aliases.

    Deep nesting crashes the process, and aliases can exhaust memory; Hydra writes neither.
    """
    depth = 0
    try:
        text = read_text(path)
        for event in yaml.parse(text, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING or isinstance(event, yaml.AliasEvent):
                raise ValueError("nested too deeply, or with aliases.")
        return LOADER(text).get_single_data()
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Unreadable(f"{path.name} is damaged or cut short") from error


def numbers(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the dotted key and value of each finite number in a nested mapping."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif is_number(value):
            yield f"{prefix}{key}", float(value)


def read_curves(path: Path, npoints: int) -> dict[str, Curve]:
    """Return the columns of metrics.csv by name: steps and finite values, thinned to at most `npoints` points."""
    rows = csv.reader(read_text(path, MAX_TABLE_BYTES).splitlines())
    try:
        return {name: thinned(curve, npoints) for name, curve in _columns(rows).items() if curve[0]}
    except csv.Error as error:
        raise Unreadable(f"{path.name} is damaged") from error


def _columns(rows: Iterable[list[str]]) -> dict[str, Curve]:
    lines = iter(rows)
    names = next(lines, [])
    curves: dict[str, Curve] = {name: ([], []) for name in names if name != "step"}
    for line in lines:
        row = {name: _float(text) for name, text in zip(names, line, strict=False) if text}
        step = row.pop("step", None)
        for name, value in row.items() if step is not None else ():
            if value is not None:
                curves[name][0].append(int(step))  # pyright: ignore[reportArgumentType]
                curves[name][1].append(value)
    return curves


def _float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def thinned(curve: Curve, npoints: int) -> Curve:
    """Return at most `npoints` evenly spaced points of a curve, including the first and the last."""
    steps, values = curve
    if len(steps) <= npoints:
        return curve
    chosen = [round(i * (len(steps) - 1) / (npoints - 1)) for i in range(npoints)]
    return [steps[i] for i in chosen], [values[i] for i in chosen]

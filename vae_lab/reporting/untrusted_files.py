"""Readers for files of untrusted or half-written run folders.

Every reader returns what it found, or raises Unreadable with a reason in a few words. Links are not followed, so that a
foreign folder cannot have our own files shown.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from vae_lab.system.reading import Unreadable, read_text

MAX_NESTING = 50
MAX_TABLE_BYTES = 100_000_000
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it

Curve = tuple[list[int], list[float]]
"""Steps and values."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds."""
    try:
        content = _plain(read_text(path))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Unreadable(f"{path.name} is damaged or cut short") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path.name} holds no settings or results")
    return {str(key): value for key, value in content.items()}


def read_overrides(path: Path) -> list[str]:
    """Return Hydra's list of overrides."""
    try:
        overrides = _plain(read_text(path))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise Unreadable(f"{path.name} is damaged") from error
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise Unreadable(f"{path.name} is no list of overrides")
    if not all(override.isprintable() for override in overrides):
        raise Unreadable(f"{path.name} holds control characters")
    return overrides


def _plain(text: str) -> Any:  # noqa: ANN401
    """Return what YAML holds; before it is built, as deep nesting ends the process and aliases can fill the memory."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING or isinstance(event, yaml.AliasEvent):
            raise ValueError("nested too deeply, or with aliases, which Hydra does not write.")
    loader = LOADER(text)
    return loader.get_single_data()


def numbers(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a nested mapping with their dotted keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif is_number(value):
            yield f"{prefix}{key}", float(value)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def read_curves(path: Path, npoints: int) -> dict[str, Curve]:
    """Return the columns of metrics.csv, each thinned to at most `npoints` points; what is no number is left out."""
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
    """Return evenly chosen points of a curve, its first and last among them."""
    steps, values = curve
    if len(steps) <= npoints:
        return curve
    chosen = [round(i * (len(steps) - 1) / (npoints - 1)) for i in range(npoints)]
    return [steps[i] for i in chosen], [values[i] for i in chosen]


def last_error(path: Path) -> str:
    """Return the last message that a log has at level ERROR; "" if there is none."""
    try:
        lines = read_text(path, MAX_TABLE_BYTES).splitlines()
    except Unreadable:
        return ""
    messages = [line.partition(" ERROR ")[2].partition(": ")[2] for line in lines if " ERROR " in line]
    return messages[-1] if messages else ""

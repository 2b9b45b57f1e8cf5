"""Configs as flat dictionaries, and the settings in which runs differ.

OmegaConf does not resolve these configs, because an untrusted config could read environment variables. Only references
of the forms `${key}` and `${..key}` are followed, within the same config.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

from vae_lab.runs.identity import below

Value = str | int | float | bool | None
Settings = dict[str, Value]
Path = tuple[str, ...]
Column = tuple[tuple[str, Value], ...]

MAX_SETTINGS = 5000
MAX_DEPTH = 20
MAX_LABEL = 6
REFERENCE = re.compile(r"\$\{(\.*)(\w+(?:\.\w+)*)\}")
CLASS = re.compile(r"(?:\w+\.)+(\w+)")
ABSENT = "–"  # noqa: RUF001 - a dash is meant
REPEATING = ("task",)
"""Groups whose settings mostly repeat settings of other groups."""


def flat_settings(config: dict[str, Any]) -> Settings:
    """Return a config's values by dotted key; a node with a `_target_` also has its class under the node's key.

    Raises:
        ValueError: if the config has more than `MAX_SETTINGS` settings or more than `MAX_DEPTH` levels.
    """
    settings = dict(islice(_leaves(config, config, (), ()), MAX_SETTINGS + 1))
    if len(settings) > MAX_SETTINGS:
        raise ValueError(f"the config has more than {MAX_SETTINGS} settings.")
    folder = settings.get("folder")
    if isinstance(folder, str) and len(folder) > 1:
        hidden = {key: value.replace(folder, "${folder}") for key, value in settings.items() if isinstance(value, str)}
        settings |= hidden | {"folder": folder}
    return settings


def _leaves(node: Any, root: dict[str, Any], path: Path, at: Path, depth: int = 0) -> Iterator[tuple[str, Value]]:  # noqa: ANN401
    """Yield (dotted key, value) for each leaf of a node at `path`; references are relative to the position `at`."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the config is nested more than {MAX_DEPTH} levels deep.")
    key = ".".join(path)
    if isinstance(node, str) and (target := _target(node, at)):
        found = _select(root, target)
        yield from [(key, node)] if found is None else _leaves(found, root, path, target, depth + 1)
    elif isinstance(node, dict) and node:
        for name, value in node.items():
            if name == "_target_":
                yield key or name, str(value)[:200]
            elif name != "_partial_":
                yield from _leaves(value, root, (*path, str(name)), (*at, str(name)), depth + 1)
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        for i, item in enumerate(node):
            yield from _leaves(item, root, (*path, str(i)), (*at, str(i)), depth + 1)
    else:
        yield key, node if isinstance(node, int | float | bool | None) else str(node)[:200]


def _target(text: str, at: Path) -> Path:
    """Return the path to which a reference such as `${..key}` at position `at` points; () for any other text."""
    reference = REFERENCE.fullmatch(text)
    if not reference:
        return ()
    above = at[: max(0, len(at) - len(reference[1]))] if reference[1] else ()
    return (*above, *reference[2].split("."))


def _select(root: Any, path: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the node at a path in a nested mapping, or None if there is none."""
    for key in path:
        root = root.get(key) if isinstance(root, dict) else None
    return root


def varied_keys(configs: Sequence[Settings], ignored: Collection[str] = ()) -> list[str]:
    """Return the keys whose values differ between configs, in the configs' order.

    Keys are omitted if they only repeat another key (`schedule.max_lr: ${optimizer.lr}`), if their values, or their
    presence, follow from the choice of a class above them, or if they or their prefixes are `ignored`.
    """
    keys = dict.fromkeys(key for config in configs for key in config if not below(key, ignored))
    columns = {key: tuple(_comparable(config.get(key, ABSENT)) for config in configs) for key in keys}
    differing = {key: column for key, column in columns.items() if len(set(column)) > 1}
    kept: list[str] = []
    for key in sorted(differing, key=lambda key: (below(key, REPEATING), key.count("."), len(key))):
        if not _implied(key, differing) and not any(_repeats(key, other, differing) for other in kept):
            kept.append(key)
    return [key for key in differing if key in kept]


def _repeats(key: str, other: str, columns: dict[str, Column]) -> bool:
    """Return whether `key` varies only as `other` does: with equal values, or as a class of the same config group."""
    column, reference = columns[key], columns[other]
    present = [value != _comparable(ABSENT) for value in column]
    if all(mine == theirs for mine, theirs, is_there in zip(column, reference, present, strict=True) if is_there):
        return all(present) or any(_determines(columns[above], present) for above in _parents(key) if above in columns)
    same_group = _group(key) == _group(other) and _classes(column) and _classes(reference)
    return same_group and _determines(reference, column) and _determines(column, reference)


def _group(key: str) -> str:
    """Return the config group of a key: its second part if the first is in `REPEATING`, else its first part."""
    parts = key.split(".")
    return parts[1] if parts[0] in REPEATING and len(parts) > 1 else parts[0]


def _classes(column: Column) -> bool:
    return all(CLASS.fullmatch(str(value)) and kind == "text" for kind, value in column)


def _comparable(value: Value) -> tuple[str, Value]:
    """Return (kind, value), so that True and 1 compare as different."""
    return ("bool" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "text", value)


def _implied(key: str, columns: dict[str, Column]) -> bool:
    """Return whether the class of a parent node determines a key's value or presence."""
    column, absent = columns[key], _comparable(ABSENT)
    optional = absent in column and len(set(column)) == 2
    return (optional or _classes(column)) and any(
        _determines(columns[parent], column) for parent in _parents(key) if parent in columns
    )


def _parents(key: str) -> list[str]:
    """Return the keys of all nodes above a dotted key: a and a.b for a.b.c."""
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _determines(parent: Sequence[object], column: Sequence[object]) -> bool:
    """Return whether equal values of `parent` always have equal values of `column`."""
    return len(set(zip(parent, column, strict=True))) == len(set(parent))


def shown(value: Value) -> str:
    """Return a value as text: classes without modules, numbers with six significant digits."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if isinstance(value, bool) else "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    named = CLASS.fullmatch(str(value))
    return named[1] if named and not str(value)[0].isdigit() else str(value)


def labelled(settings: Settings) -> str:
    """Return the first `MAX_LABEL` settings as one line of text."""
    texts = [f"{key}={shown(value)}" for key, value in settings.items()]
    return ", ".join(texts[:MAX_LABEL]) + (", …" if len(texts) > MAX_LABEL else "")

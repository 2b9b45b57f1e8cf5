"""The identity of a result: a hash of resolved config, images and protocol.

Sweeps, `tune`, `report`, `evaluate`, `generate` and `resume` ask here. Every setting counts, unless one of the lists
below names it.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.system.folders import expanded
from vae_lab.system.masking import masked

WITHOUT_EFFECT = (
    "folder",
    "resume",
    "group",
    "launcher",
    "logger",
    "threads",
    "compile",
    "callbacks.gallery",
    "callbacks.latents",
    "callbacks.progress",
    "data.root",
    "data.cache",
    "data.memory_limit",
    "data.archive",
    "data.download",
)
"""Settings, or groups of them, that do not change what a run computes.

They say where it lies and is logged, how many threads share the work and whether it is compiled (sums differ in their
last bits), what only looks on, and where the images lie, how they are fetched and how they are held: the images
themselves are compared.
`data.eval_batch_size` counts, as the noise of a validation is drawn batch by batch.
"""

WHEN_RESUMED = ("data.eval_batch_size",)
"""Settings that may differ from those of the run that a run goes on from: they change no training step."""

PROTOCOL_WITHOUT_EFFECT = ("device", "versions", "chunk")
"""Entries of an evaluation's protocol that say where and how it was computed, not what."""

SHOWN = 6
"""Differences that a message names."""


class Change(NamedTuple):
    """A setting that differs, by its dotted key; a value that is not there is None."""

    key: str
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.key.removesuffix('._target_')}={_shown(self.before)} (here {_shown(self.now)})"


def identity(config: object, images: object = None, protocol: object = None) -> str:
    """Return a hash, 16 hexadecimal digits, of what decides a result; equal hashes mean the same thing.

    Args:
        config: the resolved config; what `WITHOUT_EFFECT` names is left out.
        images: the fingerprint of the images, or None where they do not count or are not known.
        protocol: how a trained model was measured, or what was drawn from it; None for the training itself.
    """
    parts = [flat(_public(config), WITHOUT_EFFECT), flat(images), flat(protocol, PROTOCOL_WITHOUT_EFFECT)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(before: object, now: object, ignored: Collection[str] = WITHOUT_EFFECT) -> list[Change]:
    """Return the settings that differ, in the order of their keys.

    Of two classes that differ, only the classes are named, not the settings that each brings with it.

    Args:
        before: a config, fingerprint or protocol.
        now: the other one.
        ignored: keys, or beginnings of keys, that do not count.
    """
    before, now = _public(before), _public(now)
    first, second = flat(before, ignored), flat(now, ignored)
    keys = [key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)]
    classes = [key.removesuffix("_target_") for key in keys if key.endswith("_target_")]
    told = [dict(_leaves(node, "")) for node in (before, now)]
    return [
        Change(key, told[0].get(key), told[1].get(key))
        for key in keys
        if not any(key.startswith(parent) and key != f"{parent}_target_" for parent in classes)
    ]


def _public(config: object) -> object:
    """Return a config without its secrets: one that is stored has none, and none decides a result."""
    return masked(dict(config), remembered=False) if isinstance(config, Mapping) else config


def flat(node: object, ignored: Collection[str] = ()) -> dict[str, object]:
    """Return the values of a nested mapping or list by their dotted keys.

    Left out is what is null, false, 0 or empty: what is off, and what a run from before the setting does not know. The
    run's `folder` is left open where another setting repeats it, so that a moved run stays the same.

    Args:
        node: any plain value.
        ignored: keys, or beginnings of keys, to leave out.
    """
    folder = node.get("folder") if isinstance(node, Mapping) else None
    leaves = ((key, value) for key, value in _leaves(node, "") if value and not below(key, ignored))
    return {key: _without_folder(value, folder) for key, value in leaves}


def _without_folder(value: object, folder: object) -> object:
    """Return a text with the run's folder left open."""
    if not isinstance(value, str) or not isinstance(folder, str) or len(folder) < 2:
        return value
    return value.replace(folder, "${folder}")


def below(key: str, parents: Collection[str]) -> bool:
    """Return whether a dotted key is one of some keys, or lies below one of them."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def _leaves(node: object, key: str) -> Iterator[tuple[str, object]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else None
    if items is None:
        yield key, int(node) if isinstance(node, float) and node.is_integer() else node  # as 1 and 1.0 are the same
        return
    for name, value in items:
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def stated(changes: Collection[Change]) -> str:
    """Return some changes in words, those that repeat another one's values left out."""
    told: dict[tuple[str, str], str] = {}
    for change in sorted(changes, key=lambda change: (change.key.startswith("task."), change.key.count("."))):
        told.setdefault((_shown(change.before), _shown(change.now)), str(change))
    texts = list(told.values())
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def images_digest(fingerprint: object) -> str | None:
    """Return 8 hexadecimal digits that name a set of images in its three parts; None if nothing is known of it."""
    return identity({}, fingerprint)[:8] if isinstance(fingerprint, Mapping) and fingerprint else None


def file_digest(path: Path) -> str:
    """Return a hash, 16 hexadecimal digits, of a file's content, such as a checkpoint's; "" if there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved config whose `data.root` does not depend on the working directory."""
    data = config.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("root"), str) or not data["root"]:
        return config
    return config | {"data": data | {"root": str(expanded(data["root"]).absolute())}}

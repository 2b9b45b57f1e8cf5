"""The identity of a result: a hash of the resolved config, the images and the protocol.

Sweeps, `tune`, `report`, `evaluate`, `generate` and `resume` use it. Every setting is part of the identity unless it is
in one of the lists below.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.system.folders import expanded
from vae_lab.system.masking import masked

WITHOUT_EFFECT = (
    "folder", "name", "tags", "notes", "resume", "group", "launcher", "logger", "threads", "compile",
    "callbacks.gallery", "callbacks.latents", "callbacks.progress",
    "data.root", "data.cache", "data.memory_limit", "data.archive", "data.download",
)  # fmt: skip
"""Settings, or groups of settings, that do not change the result of a run.

They are the run's folder, labels and loggers, threads and compilation (which change sums in their last bits), callbacks
that only observe, and the place, download and storage of the images; the images themselves are compared.
`data.eval_batch_size` is part of the identity, because the noise of a validation is drawn batch by batch.
"""

WHEN_RESUMED = ("data.eval_batch_size",)
"""Settings that may differ when a run is resumed, because they change no training step."""

PROTOCOL_WITHOUT_EFFECT = ("device", "versions", "chunk")
"""Entries of an evaluation's protocol that do not change its result."""

SHOWN = 6
"""Maximum number of differences in a message."""


class Change(NamedTuple):
    """A setting that differs between two configs: its dotted key and both values; a missing value is None."""

    key: str
    before: object
    now: object

    def __str__(self) -> str:
        return f"{self.key.removesuffix('._target_')}={_shown(self.before)} (here {_shown(self.now)})"


def identity(config: object, images: object = None, protocol: object = None) -> str:
    """Return a hash, 16 hexadecimal digits, of everything that a result depends on.

    Args:
        config: the resolved config; the settings of `WITHOUT_EFFECT` are left out.
        images: the fingerprint of the images, or None if they are irrelevant or unknown.
        protocol: the protocol of an evaluation or of generated images; None for a training run.
    """
    parts = [flat(_public(config), WITHOUT_EFFECT), flat(images), flat(protocol, PROTOCOL_WITHOUT_EFFECT)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(before: object, now: object, ignored: Collection[str] = WITHOUT_EFFECT) -> list[Change]:
    """Return the settings that differ between two configs, fingerprints or protocols, in the order of their keys.

    If a `_target_` differs, the arguments of the two classes are not listed.

    Args:
        before: a config, fingerprint or protocol.
        now: the one to compare it with.
        ignored: dotted keys, or parents of keys, to ignore.
    """
    before, now = _public(before), _public(now)
    first, second = flat(before, ignored), flat(now, ignored)
    keys = [key for key in sorted(first.keys() | second.keys()) if first.get(key) != second.get(key)]
    classes = [key.removesuffix("_target_") for key in keys if key.endswith("_target_")]
    old, new = (dict(_leaves(node, "")) for node in (before, now))
    return [
        Change(key, old.get(key), new.get(key))
        for key in keys
        if not any(key.startswith(parent) and key != f"{parent}_target_" for parent in classes)
    ]


def _public(config: object) -> object:
    """Return a mapping with its secrets masked, as in stored configs; return any other value unchanged."""
    return masked(dict(config), remembered=False) if isinstance(config, Mapping) else config


def flat(node: object, ignored: Collection[str] = ()) -> dict[str, object]:
    """Return the values of a nested mapping or list in a flat dictionary by dotted key.

    Values that are null, false, 0 or empty are left out, so that a setting that is off equals a setting that an older
    run lacks. The run's `folder` is replaced in other settings, so that a run keeps its identity when it is moved.

    Args:
        node: any plain value.
        ignored: dotted keys, or parents of keys, to leave out.
    """
    folder = node.get("folder") if isinstance(node, Mapping) else None
    leaves = ((key, value) for key, value in _leaves(node, "") if value and not below(key, ignored))
    return {key: _without_folder(value, folder) for key, value in leaves}


def _without_folder(value: object, folder: object) -> object:
    """Return a string with the run's folder replaced by ${folder}; return any other value unchanged."""
    if not isinstance(value, str) or not isinstance(folder, str) or len(folder) < 2:
        return value
    return value.replace(folder, "${folder}")


def below(key: str, parents: Collection[str]) -> bool:
    """Return whether a dotted key equals one of `parents` or lies below one of them."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def _leaves(node: object, key: str) -> Iterator[tuple[str, object]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else None
    if items is None:
        yield key, int(node) if isinstance(node, float) and node.is_integer() else node  # as 1 and 1.0 are the same
        return
    for name, value in items:
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def describe_changes(changes: Collection[Change]) -> str:
    """Return changes as a short text; changes with equal old and new values are listed once, under the shortest key."""
    first: dict[tuple[str, str], str] = {}
    for change in sorted(changes, key=lambda change: (change.key.startswith("task."), change.key.count("."))):
        first.setdefault((_shown(change.before), _shown(change.now)), str(change))
    texts = list(first.values())
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def images_digest(fingerprint: object) -> str | None:
    """Return a hash, 8 hexadecimal digits, of a fingerprint of images and their split; None without a fingerprint."""
    return identity({}, fingerprint)[:8] if isinstance(fingerprint, Mapping) and fingerprint else None


def file_digest(path: Path) -> str:
    """Return a hash, 16 hexadecimal digits, of a file's content; "" if the file does not exist."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved config with `data.root` as an absolute path."""
    data = config.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("root"), str) or not data["root"]:
        return config
    return config | {"data": data | {"root": str(expanded(data["root"]).absolute())}}

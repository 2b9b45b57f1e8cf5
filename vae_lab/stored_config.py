"""What the config that is stored in a run may hold: plain values, and each class in its role alone.

The roles are read off the packaged conf/: a file of conf/model names the classes that may be `model`, and the parts in
it those that may be `model.encoder`; `likelihood: ${likelihood}` in it admits those of conf/likelihood there.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from vae_lab.conf_folder import CONF
from vae_lab.errors import DataError

MAX_VALUES = 20_000
MAX_NESTING = 30
GROUP = re.compile(r"\$\{(\w+)\}")
INSTRUCTION = re.compile(r"_\w+_")
"""A key that tells Hydra how to call a class, and is no argument of it."""
KNOWN_INSTRUCTIONS = {"_target_", "_partial_"}


class Role(NamedTuple):
    """The classes that are packaged for a part of a config, and whether they come as functions that make them."""

    classes: frozenset[str] = frozenset()
    partial: bool = False


@cache
def packaged_roles(group: str) -> dict[str, Role]:
    """Return the roles in the configs of a group by their dotted names, as `model` and `model.encoder`."""
    import yaml

    found: dict[str, Role] = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        for name, role in _roles(yaml.safe_load(path.read_text(encoding="utf-8")), group):
            before = found.get(name, Role())
            found[name] = Role(before.classes | role.classes, before.partial or role.partial)
    return found


def _roles(node: object, name: str) -> Iterator[tuple[str, Role]]:
    """Yield the roles of a packaged config, those of the groups that it refers to included."""
    reference = GROUP.fullmatch(node) if isinstance(node, str) else None
    if reference and (CONF / reference[1]).is_dir():
        for part, role in packaged_roles(reference[1]).items():
            yield name + part.removeprefix(reference[1]), role
    elif isinstance(node, dict):
        if "_target_" in node:
            yield name, Role(frozenset([node["_target_"]]), bool(node.get("_partial_")))
        for key, value in node.items():
            yield from _roles(value, f"{name}.{key}")


def check_config(config: object, role: str, allow: Iterable[str] = ()) -> None:
    """Raise ValueError if a stored config names a class that is not for its role, or holds an interpolation.

    Args:
        config: of the model, the data or a score.
        role: `model`, `data` or `score`.
        allow: classes that may stand anywhere.
    """
    roles, allow = packaged_roles(role), set(allow)
    if not isinstance(config, dict) or "_target_" not in config:
        raise ValueError(f"the stored config names no class for {role}; it was edited.")
    for name, node in _mappings(config, role):
        known = roles.get(name, Role())
        target = node.get("_target_")
        if target in allow:
            continue
        if target is not None and target not in known.classes:
            raise ValueError(
                f"the stored config names {target!r} as {name}, where vae_lab does not ship it; if you trust it, pass"
                " load_model(…, allow=[that name])."
            )
        odd = {key for key in node if INSTRUCTION.fullmatch(str(key))} - KNOWN_INSTRUCTIONS
        if odd or node.get("_partial_", False) is not (known.partial if target else False):
            raise ValueError(f"the stored config calls the class of {name} as vae_lab never does; it was edited.")
    if "${" in repr(config):
        raise ValueError("the stored config holds an interpolation, which a stored config never does; it was edited.")


def _mappings(node: object, name: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield every mapping at any depth with its dotted name."""
    if isinstance(node, dict):
        yield name, node
        for key, value in node.items():
            yield from _mappings(value, f"{name}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _mappings(value, f"{name}.{i}")


def require_plain(config: object) -> None:
    """Raise DataError if a stored config holds anything but JSON's types, is huge, or is nested deeply."""
    nvalues = 0
    due = [(config, 0)]
    while due:
        node, depth = due.pop()
        nvalues += 1
        if nvalues > MAX_VALUES or depth > MAX_NESTING:
            raise DataError(f"the stored config has more than {MAX_VALUES:,} values, or is nested too deeply.")
        if isinstance(node, dict):
            due += [(value, depth + 1) for value in (*node, *node.values())]
        elif isinstance(node, list):
            due += [(value, depth + 1) for value in node]
        elif isinstance(node, int) and abs(node) >= 2**64:
            raise DataError("the stored config holds a whole number of more than 64 bits; it was edited.")
        elif node is not None and not isinstance(node, str | int | float | bool):
            raise DataError(f"the stored config holds a {type(node).__name__}, which no config does; it was edited.")

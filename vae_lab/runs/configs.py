"""Validation of stored configs: plain values only, and for each part only the classes that vae_lab ships for it.

The roles come from the packaged conf/. The files of conf/model name the classes that are allowed as `model`, and their
parts name those that are allowed as `model.encoder` and so on; `likelihood: ${likelihood}` allows the classes of
conf/likelihood. A class of a trusted package is allowed in every role; see `vae_lab.runs.packages`.
"""

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any, NamedTuple

from vae_lab.errors import DataError
from vae_lab.runs.packages import NEVER, OWN, Trust, defined_name, is_name, read_trust
from vae_lab.system.config_dir import CONF
from vae_lab.system.error_text import is_in

MAX_VALUES = 20_000
MAX_NESTING = 30
GROUP = re.compile(r"\$\{(\w+)\}")
INSTRUCTION = re.compile(r"_\w+_")
"""A key that tells Hydra how to call a class, and is not an argument of the class."""
KNOWN_INSTRUCTIONS = {"_target_", "_partial_"}


class Role(NamedTuple):
    """The classes allowed for one part of a config, such as `model.encoder`, and whether they are partial."""

    classes: frozenset[str] = frozenset()
    partial: bool = False


def build(config: Any) -> Any:  # noqa: ANN401 (the config names the type)
    """Return the object that Hydra instantiates from a config; container arguments are plain lists and dictionaries."""
    from hydra.utils import instantiate

    return instantiate(config, _convert_="all")


@cache
def packaged_roles(group: str) -> dict[str, Role]:
    """Return the classes that vae_lab's configs of a group allow for each part, by names such as `model.encoder`."""
    import yaml

    found: dict[str, Role] = {}
    for path in sorted((CONF / group).rglob("*.yaml")):  # task/perceptual/lpips.yaml is for task.perceptual
        part = ".".join(path.relative_to(CONF).parent.parts)
        for name, role in _roles(yaml.safe_load(path.read_text(encoding="utf-8")), part):
            before = found.get(name, Role())
            found[name] = Role(before.classes | role.classes, before.partial or role.partial)
    return found


def _roles(node: object, name: str) -> Iterator[tuple[str, Role]]:
    """Yield (dotted name, role) for each part of one of vae_lab's own configs and of the groups that it refers to."""
    reference = GROUP.fullmatch(node) if isinstance(node, str) else None
    if reference and (CONF / reference[1]).is_dir():
        for part, role in packaged_roles(reference[1]).items():
            yield name + part.removeprefix(reference[1]), role
    elif isinstance(node, dict):
        if "_target_" in node:
            yield name, Role(frozenset([node["_target_"]]), bool(node.get("_partial_")))
        for key, value in node.items():
            yield from _roles(value, f"{name}.{key}")


def check_config(config: object, role: str, trust: Trust = None) -> None:
    """Raise ValueError if a stored config names a class that is not allowed for its part, or holds an interpolation.

    Args:
        config: of the model, the data or the task.
        role: `model`, `data` or `task`.
        trust: packages whose classes are allowed everywhere; their arguments may be classes that vae_lab ships for any
            part of `role`, and torch's layers.
    """
    packages = read_trust(trust)
    if not isinstance(config, dict) or "_target_" not in config:
        raise ValueError(f"the stored config names no class for {role}; it was edited.")
    roles = packaged_roles(role)
    for name, node, above in _mappings(config, role):
        is_below = any(is_in(one, packages) for one in above)
        check_class(name, node, [*roles.values(), *layers()] if is_below else [roles.get(name, Role())], packages)
    if "${" in repr(config):
        raise ValueError("the stored config holds an interpolation, which vae_lab never stores; it was edited.")


def check_class(name: str, node: dict[Any, Any], roles: Collection[Role], packages: Collection[str]) -> None:
    """Raise ValueError unless the class that a mapping names belongs to a trusted package or to one of `roles`."""
    target: Any = node.get("_target_")
    defined = defined_name(target) if is_in(target, packages) else target
    if is_in(defined, packages):
        return
    known = [role for role in roles if isinstance(defined, str) and defined in role.classes]
    if "_target_" in node and not known:
        raise ValueError(refusal(name, target, defined, packages))
    odd = {key for key in node if INSTRUCTION.fullmatch(str(key))} - KNOWN_INSTRUCTIONS
    if odd or not any(node.get("_partial_", False) is role.partial for role in known or [Role()]):
        raise ValueError(f"the stored config instantiates {name} in a way that vae_lab never does; it was edited.")


@cache
def layers() -> tuple[Role, Role]:
    """Return two roles that allow the layers of torch.nn, as objects and as partials, inside trusted networks."""
    from torch import nn

    names = {key for key, value in vars(nn).items() if isinstance(value, type) and issubclass(value, nn.Module)}
    classes = frozenset(f"torch.nn.{name}" for name in names)
    return Role(classes), Role(classes, partial=True)


def refusal(name: str, target: object, defined: object, packages: Collection[str]) -> str:
    """Return the message that a class is not allowed for its part of a config, with the remedy if there is one."""
    top = str(target).partition(".")[0]
    what = f"the stored config names {target!r:.200} as {name}, which is not a class of vae_lab for this role"
    if defined != target:
        return f"{what}; it is defined as {defined!r:.200}, outside the package {top}."
    if not is_name(top) or top in NEVER:
        return f"{what}, and trust= cannot allow it; a class in a package of your own may use it."
    return (
        f"{what}; if you trust the package {top} with any arguments from this run folder, type"
        f" trust=[{','.join([*packages, top])}]."
    )


def foreign_packages(config: object) -> set[str]:
    """Return the names of all packages other than vae_lab whose classes a config names."""
    targets = {str(node["_target_"]) for _, node, _ in _mappings(config, "") if "_target_" in node}
    return {target.partition(".")[0] for target in targets}.difference(OWN)


def _mappings(
    node: object, name: str, above: tuple[object, ...] = ()
) -> Iterator[tuple[str, dict[Any, Any], tuple[object, ...]]]:
    """Yield (dotted name, mapping, classes of the enclosing mappings) for each mapping in a nested config."""
    if isinstance(node, dict):
        yield name, node, above
        for key, value in node.items():
            yield from _mappings(value, f"{name}.{key}", (*above, node.get("_target_")))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _mappings(value, f"{name}.{i}", above)


def require_plain(config: object) -> None:
    """Raise DataError if a stored config has non-JSON types, integers above 64 bits, or too many values or levels."""
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
            raise DataError(
                f"the stored config holds a {type(node).__name__}, which vae_lab never stores; it was edited."
            )

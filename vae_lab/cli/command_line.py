"""Checks and reordering of the command line before Hydra parses it."""

import os
from argparse import Namespace
from collections.abc import Sequence

import yaml
from hydra._internal.utils import get_args_parser

from vae_lab.cli.completion import line_to_complete
from vae_lab.cli.other_sweepers import NO_SWEEP
from vae_lab.system.config_dir import CONF

NO_CHOICE = ("null", "None", "")


def overrides_first(arguments: Sequence[str], config_name: str) -> list[str]:
    """Return a command line with all overrides (key=value) moved before the flags, as Hydra requires.

    Raises:
        ValueError: if vae_lab does not accept a flag or an override.
    """
    found, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ValueError(
            f"{unknown[0]}: settings have no hyphens before them, as in {unknown[0].lstrip('-')}; --hydra-help lists"
            " the flags."
        )
    refuse_flags(found, config_name)
    flags = list(arguments)
    for text in found.overrides:
        flags.remove(text)
    overrides = [plain_choice(text, config_name) for text in found.overrides]
    if found.cfg and found.resolve:  # Hydra sets the output folder only when a run begins
        overrides.append("hydra.runtime.output_dir=${hydra:run.dir}")
    if found.shell_completion:
        os.environ["COMP_LINE"] = line_to_complete(os.environ.get("COMP_LINE", f"{config_name} "))
    return [*overrides, *flags]


def refuse_flags(found: Namespace, config_name: str) -> None:
    """Raise ValueError if the command does not support one of the given flags of Hydra."""
    if found.experimental_rerun is not None:
        raise ValueError(
            f"--experimental-rerun {found.experimental_rerun}: vae_lab does not read this file, because it can run any"
            " code; the command in summary.json repeats a run."
        )
    if found.multirun and config_name == "tune":
        raise ValueError(NO_SWEEP)
    name = found.config_name
    if name is not None and name != config_name and (CONF / f"{name}.yaml").is_file():
        raise ValueError(
            f"--config-name {name} is the config of another command; leave it out, or name a config of your own whose"
            f" defaults begin with {config_name}."
        )


def plain_choice(text: str, config_name: str) -> str:
    """Return `group=choice` for `+group=choice` if the command's defaults list the group as null, else the override.

    Raises:
        ValueError: if the override of a group is null or empty.
    """
    name, equals, value = text.partition("=")
    group = name.lstrip("+").partition("@")[0]
    if not equals or not group or not (CONF / group).is_dir():
        return text
    if value in NO_CHOICE:
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        raise ValueError(f"{text} is not a choice; leave it out, or choose one of {choices}.")
    has_no_default = default_choices(config_name).get(group, "") is None  # such as experiment
    return text.lstrip("+") if has_no_default else text


def default_choices(config_name: str) -> dict[str, str | None]:
    """Return the default choice of each of a command's config groups, by group; None for a group without a default."""
    config = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, str | None] = {}
    for entry in config.get("defaults", ()):
        if isinstance(entry, dict):
            found |= {name: choice for name, choice in entry.items() if " " not in name}
        elif entry != "_self_":
            found |= default_choices(entry)
    return found


def needed_keys(config_name: str) -> list[str]:
    """Return the names of a command's top-level settings and of its config groups that have a default choice."""
    config = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    parents = [entry for entry in config.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"]
    groups = [group for group, choice in default_choices(config_name).items() if choice is not None]
    settings = [name for name in config if name not in ("defaults", "hydra")]
    return list(dict.fromkeys([*groups, *(key for parent in parents for key in needed_keys(parent)), *settings]))

"""Command lines checked and reordered before Hydra parses them."""

import os
from argparse import Namespace
from collections.abc import Sequence

import yaml
from hydra._internal.utils import get_args_parser

from vae_lab.cli.completion import line_to_complete
from vae_lab.cli.other_sweepers import NO_SWEEP
from vae_lab.system.config_dir import CONF

NO_CHOICE = ("null", "None", "")


def in_order(arguments: Sequence[str], config_name: str) -> list[str]:
    """Return a command line with its overrides before its flags: Hydra's parser takes no override behind a flag.

    Raises:
        ValueError: if something in it is not possible here.
    """
    found, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    if unknown:
        raise ValueError(
            f"{unknown[0]}: a setting has no hyphens before it, as in {unknown[0].lstrip('-')}; --hydra-help lists the"
            " flags."
        )
    refuse_flags(found, config_name)
    flags = list(arguments)
    for text in found.overrides:
        flags.remove(text)
    overrides = [plain_choice(text, config_name) for text in found.overrides]
    if found.cfg and found.resolve:  # Hydra itself knows the run folder only once a run begins
        overrides.append("hydra.runtime.output_dir=${hydra:run.dir}")
    if found.shell_completion:
        os.environ["COMP_LINE"] = line_to_complete(os.environ.get("COMP_LINE", f"{config_name} "))
    return [*overrides, *flags]


def refuse_flags(found: Namespace, config_name: str) -> None:
    """Raise ValueError if a flag asks for what is not possible here."""
    if found.experimental_rerun is not None:
        raise ValueError(
            f"--experimental-rerun {found.experimental_rerun}: such a file may run any code, and is not read; the"
            " command in summary.json repeats a run."
        )
    if found.multirun and config_name == "tune":
        raise ValueError(NO_SWEEP)
    name = found.config_name
    if name is not None and name != config_name and (CONF / f"{name}.yaml").is_file():
        raise ValueError(
            f"--config-name {name}: that is the config of another command; leave it out, or name one of your own whose"
            f" defaults begin with {config_name}."
        )


def plain_choice(text: str, config_name: str) -> str:
    """Return the choice of a config group as Hydra takes it: without a + where the command's defaults have the group.

    Raises:
        ValueError: if it is no choice.
    """
    name, equals, value = text.partition("=")
    group = name.lstrip("+").partition("@")[0]
    if not equals or not group or not (CONF / group).is_dir():
        return text
    if value in NO_CHOICE:
        choices = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        raise ValueError(f"{text}: that is no choice; leave it out, or choose one of {choices}.")
    return text.lstrip("+") if group in open_groups(config_name) else text


def open_groups(config_name: str) -> list[str]:
    """Return the groups of which a command chooses none by itself, such as experiment."""
    return [group for group, choice in default_choices(config_name).items() if choice is None]


def default_choices(config_name: str) -> dict[str, str | None]:
    """Return what a command chooses of each config group, and None where it has the group and chooses nothing."""
    config = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    found: dict[str, str | None] = {}
    for entry in config.get("defaults", ()):
        if isinstance(entry, dict):
            found |= {name: choice for name, choice in entry.items() if " " not in name}
        elif entry != "_self_":
            found |= default_choices(entry)
    return found


def needed_keys(config_name: str) -> list[str]:
    """Return the settings and groups that the config of a command has at the top, but for those that may be empty."""
    config = yaml.safe_load((CONF / f"{config_name}.yaml").read_text(encoding="utf-8"))
    parents = [entry for entry in config.get("defaults", ()) if isinstance(entry, str) and entry != "_self_"]
    groups = [group for group, choice in default_choices(config_name).items() if choice is not None]
    settings = [name for name in config if name not in ("defaults", "hydra")]
    return list(dict.fromkeys([*groups, *(key for parent in parents for key in needed_keys(parent)), *settings]))

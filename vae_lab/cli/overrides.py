"""Normalisation of overrides before Hydra parses them: 4.0 becomes 4 in an integer setting, None becomes null."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lab.system.config_dir import CONF
from vae_lab.system.quoting import key, quote_text

NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")
SHARES = ("trainer.val_check_interval", "objective.beta.nsteps")
"""Settings for which an integer is a count and a float is a share, independent of the type of the default."""
LIMITS = ("trainer.max_epochs", "trainer.max_time")
CHOICE = re.compile(r"([\w/@.]+)=([\w/-]+)")
SETTING = re.compile(r"([A-Za-z_][\w.]*)=([^\[\](){}'\"]+)")


def normalise_overrides(arguments: Sequence[str], config_name: str) -> list[str]:
    """Return a command line with 4.0 replaced by 4 for integer settings, and None replaced by null.

    A setting is an integer if its default is one. 1.0 is kept if the default is a float, because to Lightning 1.0 is a
    share and 1 a count. It is also kept if the default is null, and in a setting that is added with a +. A number such
    as 4.5 is kept, and the setting refuses it.

    Args:
        arguments: overrides and flags; the values of a sweep, a=1.0,2.0, are normalised one by one.
        config_name: of the command.
    """
    ambiguous = [text for text in arguments if any(map(is_ambiguous, values_of(text)))]
    if not ambiguous:
        return list(arguments)
    default = defaults(arguments, config_name)
    return [normalise_override(text, default) if text in ambiguous else text for text in arguments]


def values_of(text: str) -> list[str]:
    """Return the values of an override: one, or several for a sweep; [] if a value is quoted or nested."""
    found = SETTING.fullmatch(text)
    return found[2].split(",") if found else []


def is_ambiguous(value: str) -> bool:
    """Return whether a value is None or a whole number written as a float, such as 4.0."""
    return value == "None" or (NUMBER.fullmatch(value) is not None and float(value).is_integer())


def normalise_override(text: str, default: DictConfig) -> str:
    """Return an override with None replaced by null and, if its setting is an int in `default`, 4.0 replaced by 4."""
    name, values = text.partition("=")[0], values_of(text)
    try:
        before = OmegaConf.select(default, name, default="")  # "" for a setting that the override adds
    except OmegaConfBaseException:  # an interpolation of a value that Hydra sets later
        before = ""
    whole = isinstance(before, int) and not isinstance(before, bool) and name not in SHARES
    normal = [
        "null" if value == "None" else str(int(float(value))) if whole and is_ambiguous(value) else value
        for value in values
    ]
    return f"{name}={','.join(normal)}"


def defaults(arguments: Sequence[str], config_name: str) -> DictConfig:
    """Return a command's config with the chosen groups but no other overrides; empty if it cannot be composed.

    Groups are searched in vae_lab's configs, --config-dir and hydra.searchpath.
    """
    places = search_path(arguments)
    try:
        if GlobalHydra.instance().is_initialized():
            return with_choices(arguments, config_name, places)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return with_choices(arguments, config_name, places)
    except (HydraException, OmegaConfBaseException):  # the command reports the error later
        return OmegaConf.create()


def with_choices(arguments: Sequence[str], config_name: str, places: list[str]) -> DictConfig:
    """Return the config that the initialised Hydra composes from the chosen groups, without other overrides."""
    loader = GlobalHydra.instance().config_loader()

    def is_choice(group: str, choice: str) -> bool:
        return choice in loader.get_group_options(group, config_name=config_name, overrides=places)

    chosen = [found for found in map(CHOICE.fullmatch, arguments) if found is not None and is_choice(*found.groups())]
    return compose(config_name, [*places, *(found[0] for found in chosen)])


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return a list of the absolute path of the folder given by --config-dir; [] without the flag."""
    typed, _ = get_args_parser().parse_known_args([*arguments])
    return [] if typed.config_dir is None else [Path(typed.config_dir).absolute()]


def search_path(arguments: Sequence[str]) -> list[str]:
    """Return a list of one override that adds the given config folders to Hydra's search path; [] if none are given."""
    folder = [quote_text(f"file://{path}") for path in config_dirs(arguments)]
    paths = [text.partition("=")[2].strip("[]") for text in arguments if text.startswith("hydra.searchpath=")]
    return [f"hydra.searchpath=[{','.join(filter(None, [*folder, *paths]))}]"] if folder or paths else []


def settle_limits(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Disable the trainer's default limits that contradict the limits given on the command line.

    `trainer.max_steps` is switched off if only `max_epochs` or `max_time` is typed. With `check_val_every_n_epoch`,
    validation is at the end of an epoch, unless `val_check_interval` is typed too.

    Args:
        cfg: the composed config, which is changed.
        overrides: the typed overrides.
    """
    typed = {key(text): text.partition("=")[2] for text in overrides}
    named = [name for name in LIMITS if typed.get(name, "null") not in ("null", "None")]
    if named and "trainer.max_steps" not in typed:
        cfg.trainer.max_steps = -1
    epochs = typed.get("trainer.check_val_every_n_epoch", "null") not in ("null", "None")
    if epochs and "trainer.val_check_interval" not in typed:
        cfg.trainer.val_check_interval = 1.0

"""Overrides normalised before Hydra parses them: 4.0 where a whole number is meant, None for null."""

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
"""Settings that are a count where they are whole and a share with a point, whatever the default is."""
LIMITS = ("trainer.max_epochs", "trainer.max_time")
CHOICE = re.compile(r"([\w/@.]+)=([\w/-]+)")
SETTING = re.compile(r"([A-Za-z_][\w.]*)=([^\[\](){}'\"]+)")


def understood(arguments: Sequence[str], config_name: str) -> list[str]:
    """Return a command line in which 4.0 is 4 where a whole number is meant, and None is null.

    A whole number is meant where the packaged config has one. Where it has a number with a point one is kept, as
    Lightning tells a share of 1.0 from a count of 1; so is what an override adds with a +, and where the config has
    null, which may be the place of a name. A number that is not whole, such as 4.5, is left for the setting to refuse.

    Args:
        arguments: overrides and flags; sweeps, a=1.0,2.0, are understood value by value.
        config_name: of the command.
    """
    doubtful = [text for text in arguments if any(map(is_doubtful, values_of(text)))]
    if not doubtful:
        return list(arguments)
    default = defaults(arguments, config_name)
    return [rewritten(text, default) if text in doubtful else text for text in arguments]


def values_of(text: str) -> list[str]:
    """Return the plain values of an override, of which a sweep has several; nothing of what is quoted or nested."""
    found = SETTING.fullmatch(text)
    return found[2].split(",") if found else []


def is_doubtful(value: str) -> bool:
    """Return whether a value may stand for another."""
    return value == "None" or (NUMBER.fullmatch(value) is not None and float(value).is_integer())


def rewritten(text: str, default: DictConfig) -> str:
    """Return an override as it is meant."""
    name, values = text.partition("=")[0], values_of(text)
    try:
        before = OmegaConf.select(default, name, default="")  # which an override adds, or another choice has
    except OmegaConfBaseException:  # it refers to what Hydra knows only once it runs
        before = ""
    whole = isinstance(before, int) and not isinstance(before, bool) and name not in SHARES
    meant = [
        "null" if value == "None" else str(int(float(value))) if whole and is_doubtful(value) else value
        for value in values
    ]
    return f"{name}={','.join(meant)}"


def defaults(arguments: Sequence[str], config_name: str) -> DictConfig:
    """Return the config with the groups that are chosen and without any setting; else an empty one.

    The groups are those of vae_lab and of --config-dir and hydra.searchpath.
    """
    places = search_path(arguments)
    try:
        if GlobalHydra.instance().is_initialized():
            return with_choices(arguments, config_name, places)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return with_choices(arguments, config_name, places)
    except (HydraException, OmegaConfBaseException):  # what is wrong with them the command itself says
        return OmegaConf.create()


def with_choices(arguments: Sequence[str], config_name: str, places: list[str]) -> DictConfig:
    """Return the config with the groups that are chosen, by the Hydra that is initialised."""
    loader = GlobalHydra.instance().config_loader()

    def is_choice(group: str, choice: str) -> bool:
        return choice in loader.get_group_options(group, config_name=config_name, overrides=places)

    chosen = [found for found in map(CHOICE.fullmatch, arguments) if found is not None and is_choice(*found.groups())]
    return compose(config_name, [*places, *(found[0] for found in chosen)])


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return the folder that --config-dir names; [] for none."""
    typed, _ = get_args_parser().parse_known_args([*arguments])
    return [] if typed.config_dir is None else [Path(typed.config_dir).absolute()]


def search_path(arguments: Sequence[str]) -> list[str]:
    """Return the override that has Hydra look where a command line says, besides in vae_lab's configs; [] for none."""
    folder = [quote_text(f"file://{path}") for path in config_dirs(arguments)]
    paths = [text.partition("=")[2].strip("[]") for text in arguments if text.startswith("hydra.searchpath=")]
    return [f"hydra.searchpath=[{','.join(filter(None, [*folder, *paths]))}]"] if folder or paths else []


def settle_limits(cfg: DictConfig, overrides: Iterable[str]) -> None:
    """Switch off defaults of the trainer that what was typed leaves no room for.

    `trainer.max_steps` is off where `max_epochs` or `max_time` was typed and it was not. `check_val_every_n_epoch`
    validates at the end of an epoch, unless an interval within it was typed too.

    Args:
        cfg: the composed config, which is changed.
        overrides: as they were typed.
    """
    typed = {key(text): text.partition("=")[2] for text in overrides}
    named = [name for name in LIMITS if typed.get(name, "null") not in ("null", "None")]
    if named and "trainer.max_steps" not in typed:
        cfg.trainer.max_steps = -1
    epochs = typed.get("trainer.check_val_every_n_epoch", "null") not in ("null", "None")
    if epochs and "trainer.val_check_interval" not in typed:
        cfg.trainer.val_check_interval = 1.0

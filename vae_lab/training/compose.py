"""Configs of runs that are composed in Python, as in a notebook, where Hydra names no run folder."""

import secrets
from collections.abc import Sequence
from datetime import datetime

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lab.cli.entry import sentence
from vae_lab.cli.overrides import normalise_overrides, settle_limits
from vae_lab.runs.folder import command
from vae_lab.system.config_dir import CONF
from vae_lab.system.masking import masked
from vae_lab.system.quoting import key, quote_typed
from vae_lab.training.checks import check_settings
from vae_lab.training.resume import continued

FOLDER = "hydra.run.dir"
"""The setting by which a command names the run folder; elsewhere it is `folder`."""


def compose_config(settings: Sequence[str]) -> tuple[DictConfig, dict[str, object]]:
    """Return the config of a run from settings as on the command line, and what its summary says of them.

    Args:
        settings: such as "data=digits".

    Raises:
        DataError: if `resume` names no run.
        ValueError: if a setting does not exist or cannot be parsed.
    """
    typed = [quote_typed(text) for text in continued([*settings])]
    named = [text.replace(FOLDER, "folder", 1) if key(text) == FOLDER else text for text in typed]
    try:
        overrides = [text for text in normalise_overrides(named, "train") if not key(text).startswith("hydra.")]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(sentence(error, "train")) from error
    settle_limits(cfg, overrides)
    check_settings(cfg)
    kept = [text for text in overrides if key(text) != "folder"]
    return cfg, {"overrides": masked(kept), "command": command(kept)}


def with_folder(cfg: DictConfig) -> DictConfig:
    """Return the config itself if it names a run folder, else a copy with the folder outputs/<date>/<time>-<id>."""
    if OmegaConf.select(cfg, "folder", throw_on_resolution_failure=False) is not None:
        return cfg
    named = cfg.copy()
    named.folder = f"outputs/{datetime.now():%Y-%m-%d/%H-%M-%S}-{secrets.token_hex(3)}"
    return named

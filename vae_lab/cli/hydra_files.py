"""Masking of secrets in the `.hydra/` files of a job."""

from contextlib import suppress
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lab.system.masking import masked, remember


def hide_secrets(cfg: DictConfig) -> None:
    """Mask the secrets in the `.hydra/` files of a job, and remember them to mask them in all later output."""
    hydra = HydraConfig.get()
    remember(OmegaConf.to_container(hydra, resolve=False))
    with suppress(OmegaConfBaseException):  # a missing value is reported when it is read
        remember(OmegaConf.to_container(cfg, resolve=True))
    if hydra.output_subdir is not None:
        for path in sorted((Path(hydra.runtime.output_dir) / hydra.output_subdir).glob("*.yaml")):
            mask_file(path)


def mask_file(path: Path) -> None:
    """Rewrite a YAML file with its secrets masked if it holds any."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    hidden = masked(content)
    if hidden != content:
        from vae_lab.system.atomic import write_whole  # imports torch

        write_whole(path, yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True).encode())


def save_config(config: DictConfig | ListConfig, path: Path) -> None:
    """Write a config as YAML with its secrets masked and its interpolations unresolved."""
    plain = OmegaConf.to_container(config, resolve=False)
    remember(plain)
    OmegaConf.save(OmegaConf.create(masked(plain)), path)

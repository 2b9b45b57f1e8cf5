"""The `.hydra/` files of a job, with secrets masked."""

from contextlib import suppress
from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vae_lab.system.masking import masked, remember


def hide_secrets(cfg: DictConfig) -> None:
    """Mask the secrets in the `.hydra/` files of a job, and remember them for masking what it writes later."""
    hydra = HydraConfig.get()
    remember(OmegaConf.to_container(hydra, resolve=False))
    with suppress(OmegaConfBaseException):  # of a value that is missing; whoever reads it tells
        remember(OmegaConf.to_container(cfg, resolve=True))
    if hydra.output_subdir is not None:
        for path in sorted((Path(hydra.runtime.output_dir) / hydra.output_subdir).glob("*.yaml")):
            mask_file(path)


def mask_file(path: Path) -> None:
    """Write a YAML file anew if there is a secret in it."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    hidden = masked(content)
    if hidden != content:
        from vae_lab.system.atomic import write_whole  # which takes torch along

        write_whole(path, yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True).encode())


def save_config(config: DictConfig | ListConfig, path: Path) -> None:
    """Write a config, its references unresolved, without its secrets."""
    plain = OmegaConf.to_container(config, resolve=False)
    remember(plain)
    OmegaConf.save(OmegaConf.create(masked(plain)), path)

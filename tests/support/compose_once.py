"""Hydra composes one choice of config files once in a process of the tests, where it has read only files of vae_lab.

A command composes twice, and a trial of a sweep once more: each time Hydra reads, parses and merges forty files.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl as loader
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from vae_lab.system.config_dir import CONF

_compose = loader.ConfigLoaderImpl._compose_config_from_defaults_list
_lists: dict[object, DefaultsList] = {}
_composed: dict[object, DictConfig] = {}


def sources(repo: IConfigRepository) -> tuple[str, ...] | None:
    """Return where configs come from; None if that is also a folder of somebody's own, whose files may change."""
    found = repo.get_sources()
    own = any(source.scheme() == "file" and Path(source.path) != CONF for source in found)
    return None if own else tuple(f"{source.scheme()}://{source.path}" for source in found)


def list_once(repo: IConfigRepository, *, overrides_list: list[Override], **how: Any) -> DefaultsList:
    """Return the files that are to be composed, and the overrides that choose none."""
    chosen = [o for o in overrides_list if repo.group_exists(o.key_or_group) and not isinstance(o.value(), dict)]
    key = (sources(repo), *(override.input_line for override in chosen), *how.items())
    if key[0] is None:
        return create_defaults_list(repo, overrides_list=overrides_list, **how)
    if key not in _lists:
        _lists[key] = create_defaults_list(repo, overrides_list=chosen, **how)
    found = copy.copy(_lists[key])
    found.config_overrides = [o for o in overrides_list if not o.is_sweep_override() and o not in chosen]
    return found


def compose_once(
    self: loader.ConfigLoaderImpl, defaults: Sequence[ResultDefault], repo: IConfigRepository
) -> DictConfig:
    """Return the config of these files."""
    key = (sources(repo), *((one.config_path, one.parent, one.package, one.is_self) for one in defaults))
    if key[0] is None:
        return _compose(self, list(defaults), repo)
    if key not in _composed:
        _composed[key] = _compose(self, list(defaults), repo)
    return copy.deepcopy(_composed[key])


loader.create_defaults_list = list_once  # pyright: ignore[reportPrivateImportUsage]
loader.ConfigLoaderImpl._compose_config_from_defaults_list = compose_once

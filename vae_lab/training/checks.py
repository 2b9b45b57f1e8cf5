"""Checks of a run's settings that do not import Lightning."""

import inspect
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from vae_lab.runs.configs import build
from vae_lab.system.error_text import wrong_arguments

OPTIMIZERS = ("optimizer", "task.adversary_optimizer", "task.encoder_optimizer")


def check_settings(cfg: DictConfig) -> None:
    """Check the settings of model, optimizers and schedule by building them on the meta device, without Lightning.

    Raises:
        ValueError: if an optimizer or the schedule does not accept its settings, or a callback or logger has no class.
    """
    check_named(cfg, "callbacks")
    check_named(cfg, "logger")
    import torch

    with torch.device("meta"):
        model: torch.nn.Module = build(cfg.model)
    for key in OPTIMIZERS:
        settings = OmegaConf.select(cfg, key)
        if settings is None or "_target_" not in settings:  # of another task
            continue
        make = build(settings)
        try:
            make(model.named_parameters())
        except TypeError as error:
            raise ValueError(wrong_arguments(key, error) or f"{key}: {error}.") from error
        except ValueError as error:
            arguments: dict[str, object] = getattr(make, "keywords", {})
            values = ", ".join(f"{key}.{name}={value}" for name, value in arguments.items())
            raise ValueError(f"{key}: {error}; change one of {values}.") from error
    check_schedule(build(cfg.schedule))


def check_named(cfg: DictConfig, group: str) -> None:
    """Check that each entry of `callbacks` or `logger` is null or names a class.

    Raises:
        ValueError: if one is something else; the message names it.
    """
    for name, settings in cfg[group].items():
        if settings is not None and not (isinstance(settings, DictConfig) and "_target_" in settings):
            raise ValueError(f"{group}.{name}={settings} names no class; give it a _target_, or null to turn it off.")


def check_schedule(make: Callable[..., object]) -> None:
    """Check that the schedule's class has the settings that it will be called with.

    Raises:
        ValueError: if it lacks one; the message names it.
    """
    target = getattr(make, "func", make)
    settings: dict[str, object] = getattr(make, "keywords", {})
    try:
        inspect.signature(target).bind_partial(**settings)
    except TypeError as error:
        named = TypeError(f"{target.__name__}() {error}")  # as Python's own message for a call
        raise ValueError(wrong_arguments("schedule", named) or f"schedule: {error}.") from error

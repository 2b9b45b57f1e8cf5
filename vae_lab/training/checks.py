"""Checks of a run's settings that do not import Lightning."""

from omegaconf import DictConfig

from vae_lab.runs.configs import build


def check_model(cfg: DictConfig) -> None:
    """Check the settings of model and optimizer by building both on the meta device, without Lightning.

    Raises:
        ValueError: if the optimizer does not accept its settings.
    """
    import torch

    with torch.device("meta"):
        model: torch.nn.Module = build(cfg.model)
    try:
        build(cfg.optimizer)(model.named_parameters())
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}.") from error

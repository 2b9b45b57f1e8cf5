"""Checks of a run's settings that need no Lightning."""

from omegaconf import DictConfig


def check_model(cfg: DictConfig) -> None:
    """Build model and optimizer without their memory: a wrong setting is told before Lightning is imported.

    Raises:
        ValueError: if the optimizer does not take its settings.
    """
    import torch
    from hydra.utils import instantiate

    with torch.device("meta"):
        model: torch.nn.Module = instantiate(cfg.model, _convert_="all")
    try:
        instantiate(cfg.optimizer, _convert_="all")(model.named_parameters())
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}.") from error

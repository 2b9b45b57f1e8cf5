"""`python -m vae_lab.train`: train a VAE, test it, and leave pictures, numbers and checkpoints in a run folder.

python -m vae_lab.train                                            bundled digits, no network needed
python -m vae_lab.train data=mnist data.root=<folder>              MNIST
python -m vae_lab.train data=monet data.root=<folder> model.nlatent=8
python -m vae_lab.train -m model.nlatent=2,8,32 optimizer.lr=5e-4,1e-3
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vae_lab.commands import command


@command("train")
def main(cfg: DictConfig) -> None:
    """Train one run; the jobs of a sweep share a W&B group."""
    check_model(cfg)
    from vae_lab.training import train  # Lightning takes seconds, which --help and wrong settings need not wait for

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN and cfg.group is None:
        cfg.group = "/".join(Path(hydra.sweep.dir).parts[-2:])
    train(cfg)


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
        instantiate(cfg.optimizer, _convert_="all")(list(model.parameters())[:1])
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer: {error}.") from error


if __name__ == "__main__":
    main()

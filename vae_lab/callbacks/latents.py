"""What the latents are used for: nats per latent and where the posterior means lie."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from lightning import Callback, Trainer
from torch import Tensor

from vae_lab.evaluation.bounds import placed
from vae_lab.evaluation.latents import latents_figure, posterior_statistics
from vae_lab.files import whole
from vae_lab.tasks.task import Task


class Latents(Callback):
    """After each validation, the KL of each latent and a histogram of the posterior means, to W&B; at the end a figure.

    Args:
        folder: where `latents.png` is written.
        nimages: validation images looked at.
    """

    def __init__(self, folder: str, nimages: int) -> None:
        if nimages < 2:
            raise ValueError(f"callbacks.latents.nimages must be at least 2, not {nimages}.")
        self.folder = Path(folder)
        self.nimages = nimages

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Look at the posterior of the first validation images."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        means, rates = posterior_statistics(*placed(pl_module.model, trainer.datamodule.parts.val, slice(self.nimages)))  # pyright: ignore[reportAttributeAccessIssue]
        for logger in trainer.loggers:
            if hasattr(logger, "log_histograms"):
                logger.log_histograms(histograms(means, rates), step=pl_module.batches_seen)  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.should_stop:
            with whole(self.folder / "latents.png") as path:
                latents_figure(means, rates).savefig(path, format="png", dpi=110)


def histograms(
    means: Float[Tensor, "n nlatent"], rates: Float[Tensor, " nlatent"]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (heights, edges): of the posterior means, and of nats per latent with one bin for each latent."""
    counts, edges = np.histogram(means.numpy(), bins=64)
    return {
        "latents/posterior_means": (counts, edges),
        "latents/rate": (rates.numpy(), np.arange(len(rates) + 1)),
    }

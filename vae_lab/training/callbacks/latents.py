"""Statistics of the latents, logged at each validation."""

import logging
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float
from lightning import Callback, Trainer
from torch import Tensor

from vae_lab.data.grids import thumbnails
from vae_lab.errors import require_count, require_number
from vae_lab.evaluation.metrics.latents import latents_figure, posterior_statistics
from vae_lab.latents.coloring import Coloring
from vae_lab.latents.map_figure import describe_map, map_figure
from vae_lab.latents.projection import project_latents
from vae_lab.runs.inference import placed
from vae_lab.sampling.images import class_label
from vae_lab.system.atomic import whole
from vae_lab.training.loggers.latents import log_latents
from vae_lab.training.loggers.pictures import log_histogram, takes_images
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class Latents(Callback):
    """Logs the KL of each latent and a histogram of the posterior means at each validation; writes figures at the end.

    These are the statistics of the latents and a map of them by PCA. The latents of some images go, with the images, to
    loggers that have a view for them: a table of W&B and the projector of TensorBoard. The number of active latents
    goes into the summary; if there are none, a warning is logged at the end.

    Args:
        folder: folder for `latents.png` and `map.png`.
        nimages: number of validation images.
        active_above: a latent is active if its KL in nats is above this.
        map: whether to draw the map.
        nlogged: number of images whose latents go to loggers; 0 for none.

    Attributes:
        seen: posterior means and KL per latent at the last validation; None before the first.
        rate: rate in nats at the last validation.
    """

    def __init__(self, folder: str, nimages: int, active_above: float, *, map: bool, nlogged: int) -> None:  # noqa: A002
        require_count("callbacks.latents.nimages", nimages, 2)
        require_number("callbacks.latents.active_above", active_above)
        require_count("callbacks.latents.nlogged", nlogged, 0)
        self.folder = Path(folder)
        self.nimages = nimages
        self.active_above = active_above
        self.map = map
        self.nlogged = nlogged
        self.seen: tuple[Tensor, Tensor] | None = None
        self.rate = math.nan

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Log the KL per latent and a histogram of posterior means, for the first `nimages` validation images."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        images = trainer.datamodule.splits.val  # pyright: ignore[reportAttributeAccessIssue]
        self.seen = means, rates = posterior_statistics(*placed(pl_module.model, images, slice(self.nimages)))
        self.rate = float(trainer.callback_metrics["val/rate"])
        for logger in filter(takes_images, trainer.loggers):
            for name, (heights, edges) in histograms(means, rates).items():
                log_histogram(logger, name, heights, edges, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Write the figures of the last validation, and log its latents; log a warning if no latent is active."""
        if self.seen is None:
            return
        with whole(self.folder / "latents.png") as path:
            latents_figure(*self.seen).savefig(path, format="png", dpi=110)
        self.show_images(trainer)
        if not self.nactive():
            advice = "the decoder ignores them; try a smaller objective.beta, objective=elbo_warmup or free_bits"
            log.warning("%s: %s", self.describe()["latents"], advice)

    def show_images(self, trainer: Trainer) -> None:
        """Write the map of the latents of the last validation, and send latents with their images to loggers."""
        assert self.seen is not None
        means, rates = self.seen
        images, classes = trainer.datamodule.splits.val, trainer.datamodule.classes  # pyright: ignore[reportAttributeAccessIssue]
        names = [class_label(classes, k) if classes else "" for k in images.labels[: len(means)].tolist()]
        if self.map and min(means.shape) > 1:
            found, coloring = project_latents(means), Coloring("class", names)
            caption = describe_map(found, coloring, means.shape[1], f"{len(means):,} validation images")
            with whole(self.folder / "map.png") as path:
                map_figure(found, coloring, caption).savefig(path, format="png", dpi=110)
        if self.nlogged:
            n = min(self.nlogged, len(means))
            pixels = thumbnails(images.pixels(slice(n)).cpu())
            for logger in trainer.loggers:
                log_latents(logger, means[:n], rates, names[:n], pixels, step=trainer.global_step)

    def nactive(self) -> int:
        """Return the number of active latents; 0 if the rate, summed over latents, is at most `active_above` nats.

        The rate is checked because the KL per latent is to N(0, 1) if the prior does not factorize over latents.
        """
        assert self.seen is not None
        return int((self.seen[1] > self.active_above).sum()) if self.rate > self.active_above else 0

    def describe(self) -> dict[str, object]:
        """Return the number of active latents and a sentence about them, as entries of summary.json."""
        if self.seen is None:
            return {}
        number, total = self.nactive(), len(self.seen[1])
        words = f"{number} of {total} latents carry more than {self.active_above} nats on validation images"
        return {"active_latents": number, "latents": words}


def histograms(
    means: Float[Tensor, "n nlatent"], rates: Float[Tensor, " nlatent"]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return two histograms by name, as (heights, edges): of posterior means, and of KL with one bar per latent."""
    counts, edges = np.histogram(means.numpy(), bins=64)
    return {
        "latents/posterior_means": (counts, edges),
        "latents/rate": (rates.numpy(), np.arange(len(rates) + 1)),
    }

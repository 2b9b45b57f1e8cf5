"""Figures of reconstructions, samples and latent traversals, for the run folder and loggers."""

import logging
from pathlib import Path

import torch
from lightning import Callback, Trainer

from vae_lab.errors import require_count
from vae_lab.evaluation import figures
from vae_lab.runs.inference import placed
from vae_lab.system.atomic import write_png
from vae_lab.system.randomness import seeded
from vae_lab.training.callbacks.curves import write_curves
from vae_lab.training.loggers.pictures import log_image, takes_images
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class Gallery(Callback):
    """Writes grids of images: reconstructions beside their originals, samples and latent traversals.

    The grids are made after the first validation, after later ones at least `every` steps after the last grids, and at
    the end. They have their own random state, so they do not affect training. At the end, the loss curve is drawn.

    Args:
        folder: folder for `<name>.png`, which is overwritten each time, and for `curves.png`.
        every: smallest number of steps between two sets of grids.
        nimages: images per grid.
    """

    def __init__(self, folder: str, every: int, nimages: int) -> None:
        require_count("callbacks.gallery.every", every)
        require_count("callbacks.gallery.nimages", nimages)
        self.folder = Path(folder)
        self.every = every
        self.nimages = nimages
        self.next_visit = 0
        self.visited: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Log a warning if more than `every` steps lie between two validations, at which the grids are made."""
        interval = getattr(trainer, "val_check_interval", None)  # None if it is a time
        if (
            trainer.check_val_every_n_epoch is None
            and isinstance(interval, int)
            and self.every < min(interval, pl_module.last_step)
        ):
            line = "figures are made at validations, every %d batches; set trainer.val_check_interval=%d for more"
            log.warning(line, interval, self.every)

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Make the grids if `every` steps have passed since the last ones, or if training is ending."""
        due = trainer.global_step >= self.next_visit or trainer.should_stop
        if due and trainer.is_global_zero and not trainer.sanity_checking:
            self.next_visit = trainer.global_step + self.every
            self.show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Write the loss curve, and make the last grids if a callback ended training after the last validation."""
        if self.visited is not None and self.visited < trainer.global_step and trainer.is_global_zero:
            self.show(trainer, pl_module)
        if trainer.is_global_zero:
            write_curves(self.folder / "curves.png", trainer.loggers)

    def show(self, trainer: Trainer, task: Task) -> None:
        """Write the three grids as PNG files, and send them to every logger that accepts images."""
        self.visited = trainer.global_step
        model, images = placed(task.model, trainer.datamodule.splits.val, slice(self.nimages))  # pyright: ignore[reportAttributeAccessIssue]
        with seeded("gallery", task.seed), torch.no_grad(), trainer.precision_plugin.tensor_init_context():
            grids = {
                "reconstructions": figures.reconstructions(model, images),
                "samples": figures.samples(task.model, self.nimages, classes=trainer.datamodule.classes),  # pyright: ignore[reportAttributeAccessIssue]
                "traversals": figures.traversals(model, images),
            }
        for name, grid in grids.items():
            write_png(self.folder / f"{name}.png", grid)
            for logger in filter(takes_images, trainer.loggers):
                log_image(logger, name, grid, step=trainer.global_step)

"""Pictures of reconstructions, samples and traversals, to loggers and the run folder."""

import logging
from pathlib import Path

import torch
from lightning import Callback, Trainer

from vae_lab.errors import require_count
from vae_lab.evaluation import figures
from vae_lab.runs.inference import placed
from vae_lab.system.atomic import write_png
from vae_lab.system.randomness import seeded
from vae_lab.training.loggers.pictures import log_image, takes_images
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class Gallery(Callback):
    """Reconstructions beside their originals, samples and latent traversals.

    They are made after the first validation, after every later one that comes `every` steps or more behind the last
    visit, and at the end. Their noise comes from counters of their own, so looking changes nothing.

    Args:
        folder: where `<name>.png` are written, the latest over the one before.
        every: steps between two visits.
        nimages: images in the grids.
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
        """Say so if the interval asked for cannot be kept."""
        interval = getattr(trainer, "val_check_interval", None)  # none where it is a time
        if (
            trainer.check_val_every_n_epoch is None
            and isinstance(interval, int)
            and self.every < min(interval, pl_module.last_step)
        ):
            line = "pictures come with validations, every %d batches; trainer.val_check_interval=%d has them as asked"
            log.warning(line, interval, self.every)

    def on_validation_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Make the pictures if their turn has come."""
        due = trainer.global_step >= self.next_visit or trainer.should_stop
        if due and trainer.is_global_zero and not trainer.sanity_checking:
            self.next_visit = trainer.global_step + self.every
            self.show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Make the last pictures where a callback ended training after the validation."""
        if self.visited is not None and self.visited < trainer.global_step and trainer.is_global_zero:
            self.show(trainer, pl_module)

    def show(self, trainer: Trainer, task: Task) -> None:
        """Write the three grids and send them to every logger that takes images."""
        self.visited = trainer.global_step
        model, images = placed(task.model, trainer.datamodule.splits.val, slice(self.nimages))  # pyright: ignore[reportAttributeAccessIssue]
        with seeded("gallery", task.seed), torch.no_grad(), trainer.precision_plugin.tensor_init_context():
            grids = {
                "reconstructions": figures.reconstructions(model, images),
                "samples": figures.samples(task.model, self.nimages),
                "traversals": figures.traversals(model, images),
            }
        for name, grid in grids.items():
            write_png(self.folder / f"{name}.png", grid)
            for logger in filter(takes_images, trainer.loggers):
                log_image(logger, name, grid, step=trainer.global_step)

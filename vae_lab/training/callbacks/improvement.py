"""Detection of training that ends worse than it began."""

import logging

import torch
from lightning import Callback, Trainer

from vae_lab.data.sample import Sample
from vae_lab.errors import DivergedError, require_count, require_number
from vae_lab.system.randomness import seeded
from vae_lab.training.distributed.collectives import averaged
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class Improvement(Callback):
    """Measures the first validation images before and after training, and refuses a run that ends worse than it began.

    What is measured is what training minimises, weighted as at the end of the run, with the same noise each time. A
    learning rate that is far too large often leaves weights that are finite and worth nothing. Refused is only a run
    whose *tested* weights are worse: training too long on a few images spoils the last weights, not the best ones.
    Where the comparison is none of like with like, for a run that goes on from another or minimises more than this, and
    for last weights that are not tested, there is a warning; so there is after few batches, as the first steps often go
    up: each of Adam's is as long as the learning rate.

    Args:
        tolerance: what a loss may rise by, as a share of its size, and still not be worse.
        min_batches: batches from which on a run is refused.

    Attributes:
        before: mean over the images with the first weights; None before training.
        after: the same with the weights that are tested.
    """

    def __init__(self, tolerance: float, min_batches: int) -> None:
        require_count("callbacks.improvement.min_batches", min_batches)
        require_number("callbacks.improvement.tolerance", tolerance)
        self.tolerance = tolerance
        self.min_batches = min_batches
        self.before: float | None = None
        self.after: float | None = None
        self.fresh = True

    def on_train_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Measure the weights that training begins with.

        Raises:
            DivergedError: if the loss is not finite from the start.
        """
        self.fresh = trainer.global_step == 0
        self.before = mean_loss(trainer, pl_module)
        pl_module.refuse_nonfinite(self.before, "the loss of the first validation images")

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Warn of last weights that are worse than the first."""
        after = mean_loss(trainer, pl_module)
        if self.is_worse(after):
            log.warning("last.ckpt: %s", self.comparison(after))

    def on_test_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Measure the weights that are tested.

        Raises:
            DivergedError: if they are worse than those that training began with.
        """
        if self.before is None:
            return
        self.after = mean_loss(trainer, pl_module)
        if not self.is_worse(self.after):
            return
        if self.fresh and pl_module.must_improve and trainer.global_step >= self.min_batches:
            raise DivergedError(f"{self.comparison(self.after)}; try a smaller optimizer.lr.")
        log.warning("the weights that are tested: %s", self.comparison(self.after))

    def is_worse(self, after: float) -> bool:
        """Return whether a loss is above the first one, or not finite."""
        return self.before is not None and not after <= self.before + self.tolerance * abs(self.before)

    def comparison(self, after: float) -> str:
        """Return both numbers in words."""
        since = "before training" if self.fresh else "when the run went on"
        return f"the loss of the first validation images is {after:.6g}, and was {self.before:.6g} {since}"

    def describe(self) -> dict[str, object]:
        """Return both numbers for the summary."""
        return {"improvement": {"before": self.before, "after": self.after}}


@torch.no_grad()
def mean_loss(trainer: Trainer, task: Task) -> float:
    """Return the mean over as many of the first validation images as a training batch has; nothing else changes."""
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    first = trainer.precision_plugin.convert_input(next(iter(data.val_dataloader())))
    images, labels = (part[: data.batch_size].to(task.device) for part in first)
    training = task.model.training
    task.model.eval()
    with seeded("val", task.seed, trainer.global_rank, 0), trainer.precision_plugin.val_step_context():
        loss = task.measure(Sample(images, labels)).mean()
    task.model.train(training)
    return averaged([loss])[0].item()

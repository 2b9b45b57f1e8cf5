"""Detection of runs whose loss is higher after training than before."""

import logging

import torch
from lightning import Callback, Trainer

from vae_lab.data.sample import Sample
from vae_lab.errors import DivergedError, require_count, require_number
from vae_lab.system.randomness import seeded
from vae_lab.training.distributed.collectives import mean_over_processes
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class Improvement(Callback):
    """Fails a run whose loss on the first validation images is higher after training than before.

    The loss is `Task.measure`, with the same noise each time. A learning rate that is far too large often gives weights
    that are finite but useless. A run fails only if the *tested* weights are worse, because overfitting a few images
    spoils the last weights, not the best ones.

    The callback only warns if the last weights are worse but not tested, if the run was resumed, if the task minimises
    other losses too, or after few batches, because Adam's first steps often increase the loss.

    Args:
        tolerance: largest accepted increase of the loss, as a share of its size.
        min_batches: smallest number of batches after which a run fails.

    Attributes:
        before: mean loss with the initial weights; None before training.
        after: mean loss with the tested weights; None before the test.
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
        """Store the loss of the first validation images with the initial weights.

        Raises:
            DivergedError: if the loss is not finite.
        """
        self.fresh = trainer.global_step == 0
        self.before = mean_loss(trainer, pl_module)
        pl_module.refuse_nonfinite(self.before, "the loss of the first validation images")

    def on_train_end(self, trainer: Trainer, pl_module: Task) -> None:
        """Log a warning if the last weights have a higher loss than the initial ones."""
        if getattr(pl_module, "is_preliminary", False):
            return  # the loss of an untrained encoder tells nothing
        after = mean_loss(trainer, pl_module)
        if self.is_worse(after):
            log.warning("last.ckpt: %s", self.comparison(after))

    def on_test_start(self, trainer: Trainer, pl_module: Task) -> None:
        """Compare the loss of the tested weights with that of the initial ones.

        Raises:
            DivergedError: if the tested weights are worse than the initial ones.
        """
        if self.before is None:
            return
        self.after = mean_loss(trainer, pl_module)
        if not self.is_worse(self.after):
            return
        if self.fresh and pl_module.must_improve and trainer.global_step >= self.min_batches:
            raise DivergedError(f"{self.comparison(self.after)}; try a smaller optimizer.lr.")
        log.warning("tested weights: %s", self.comparison(self.after))

    def is_worse(self, after: float) -> bool:
        """Return whether a loss exceeds the initial one by more than the tolerance, or is not finite."""
        return self.before is not None and not after <= self.before + self.tolerance * abs(self.before)

    def comparison(self, after: float) -> str:
        """Return a sentence with the loss `after` training and the loss before training."""
        since = "before training" if self.fresh else "when the run resumed"
        return f"the loss of the first validation images is {after:.6g}, and was {self.before:.6g} {since}"

    def describe(self) -> dict[str, object]:
        """Return the losses before and after training, as an entry of summary.json."""
        return {"improvement": {"before": self.before, "after": self.after}}


@torch.no_grad()
def mean_loss(trainer: Trainer, task: Task) -> float:
    """Return the mean loss of the first `data.batch_size` validation images of each process."""
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    first = trainer.precision_plugin.convert_input(next(iter(data.val_dataloader())))
    images, labels = (part[: data.batch_size].to(task.device) for part in first)
    training = task.model.training
    task.model.eval()
    with seeded("val", task.seed, trainer.global_rank, 0), trainer.precision_plugin.val_step_context():
        loss = task.measure(Sample(images, labels)).mean()
    task.model.train(training)
    return mean_over_processes([loss])[0].item()

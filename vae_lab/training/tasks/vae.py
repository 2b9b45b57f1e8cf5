"""`VAETask`: training of a VAE with one optimizer."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Float
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_lab.data.sample import Batch, Sample
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import Objective
from vae_lab.training.schedules import make_schedule
from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)


class VAETask(Task):
    """Trains a VAE by minimising an objective, with Lightning's automatic optimization.

    Args:
        model: the model.
        objective: the objective to minimise.
        optimizer: factory called with the named parameters; None without training.
        schedule: factory of a learning-rate schedule per step; see `make_schedule`. None keeps the learning rate.
        settings: see `Task`.

    Attributes:
        lr: the learning rate found by Lightning's LearningRateFinder, or None.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        objective: Objective,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model=model, **settings)
        self.objective = objective
        self.minimises_bound = objective.is_bound
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.lr: float | None = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer, and its learning-rate schedule if there is one.

        Raises:
            ValueError: if the task has no optimizer.
        """
        if self.make_optimizer is None:
            raise ValueError("this task has no optimizer; pass one, as optimizer=partial(torch.optim.Adam, lr=5e-4).")
        self.objective.plan(self.total_steps)
        optimizer = self.make_optimizer(self.model.named_parameters())
        if self.make_schedule is None:
            return optimizer
        schedule = make_schedule(self.make_schedule, optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Apply the learning rate that LearningRateFinder found to the optimizer and its schedule."""
        super().on_train_start()
        if self.lr is None or self.is_searching:
            return
        log.info("training with the learning rate %.3g found by LearningRateFinder, not with optimizer.lr", self.lr)
        optimizer = self.trainer.optimizers[0]
        for group in optimizer.param_groups:
            group["lr"] = self.lr
            group.pop("initial_lr", None)
        for config in self.trainer.lr_scheduler_configs:  # these were created with optimizer.lr
            config.scheduler = self.remake_schedule(optimizer, self.lr)

    def remake_schedule(self, optimizer: Optimizer, lr: float) -> LRScheduler:
        """Return a new learning-rate schedule for the learning rate `lr`."""
        assert self.make_schedule is not None
        given = getattr(self.make_schedule, "keywords", {})
        make = partial(self.make_schedule, max_lr=lr) if "max_lr" in given else self.make_schedule
        return make_schedule(make, optimizer, self.total_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the mean of the objective's loss over the batch, in nats per image, under "loss"."""
        sample = self.begin_batch(batch, batch_idx)
        terms = self.objective(self.model.given(sample.label), sample, self.global_step)
        self.end_batch(terms._asdict(), self.global_step)
        return {"loss": terms.loss.mean()}

    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return the objective's loss of each image, with scheduled loss weights at their final values."""
        return self.objective(self.model.given(batch.label), batch, self.last_step).loss

"""Training of a VAE by one optimizer."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_lab.data.sample import Sample
from vae_lab.distributed import average_gradients
from vae_lab.models.vae import LatentModel
from vae_lab.probability.objectives import Objective, Terms
from vae_lab.schedules import make_schedule
from vae_lab.tasks.task import Task


class VAETask(Task):
    """Fits a VAE to an objective.

    Args:
        model: the three distributions.
        objective: what is minimised.
        optimizer: called with the named parameters.
        schedule: called with the optimizer, and with `total_steps` if it takes that, stepped after every batch; None
            keeps the learning rate.
        settings: see `Task`.
    """

    def __init__(
        self,
        *,
        model: LatentModel,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler] | None,
        **settings: Any,
    ) -> None:
        super().__init__(model=model, **settings)
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_schedule = schedule

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and, if there is one, its schedule over batches."""
        optimizer = self.make_optimizer(self.model.named_parameters())
        if self.make_schedule is None:
            return {"optimizer": optimizer}
        schedule = make_schedule(self.make_schedule, optimizer, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def step(self, batch: Sample, *optimizers: Optimizer) -> Terms:
        """Take one step of the optimizer and return the batch's terms."""
        (optimizer,) = optimizers
        terms = self.objective(self.model.given(batch.label), batch, self.batches_seen)
        optimizer.zero_grad()
        terms.loss.mean().backward()
        average_gradients(self.model.parameters())
        optimizer.step()
        return terms

    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return the objective's loss of each image, weighed as at the end of the run."""
        return self.objective(self.model.given(batch.label), batch, self.max_steps).loss

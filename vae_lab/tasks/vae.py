"""Training, validation and test of a VAE."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, MetricCollection

from vae_lab.data.batches import Batches
from vae_lab.data.sample import Sample
from vae_lab.errors import DivergedError, require_counts
from vae_lab.models.vae import Inference, LatentModel
from vae_lab.probability.objectives import Objective, Terms, elbo_terms
from vae_lab.randomness import reseed

METRICS = ("neg_elbo", "distortion", "rate", "mse", "sse_kl")


class VAETask(LightningModule):
    """Fits a VAE to an objective and reports the ELBO with weight 1 on the rate, whatever is trained.

    Logs train/{loss,distortion,rate,lr} every `log_every` batches and {val,test}/{neg_elbo,distortion,rate,mse,sse_kl}:
    nats per image, but for `mse`, the mean over pixels in [0, 1], and `sse_kl`, the summed squared error plus the
    rate. Steps are batches, counted here, since Lightning counts the steps of optimizers.

    Lightning's step is a whole stretch of batches, from one validation to the next: its hooks take a millisecond or two
    where a step of a small network takes ten, so inside a stretch there is nothing but the loop. Callbacks hear of
    stretches; who wants to hear of batches adds a function to `listeners`. (With several devices a stretch is one
    batch, since that is what their gradients are exchanged for.)

    Args:
        model: the three distributions.
        objective: what is minimised.
        optimizer: called with the parameters.
        schedule: called with the optimizer, stepped after every batch; None keeps the learning rate.
        seed: decides the noise of every batch.
        log_every: batches between two logged training batches.
        val_every: batches between two validations.
        max_steps: batches to train on.

    Attributes:
        batches_seen: batches trained on, in all runs that this one goes on from.
        latest: the terms of the last batch.
        listeners: called with the task after every batch.
        stopping: set it to end training after the batch in hand.
    """

    automatic_optimization = False  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        *,
        model: LatentModel,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], LRScheduler] | None,
        seed: int,
        log_every: int,
        val_every: int,
        max_steps: int,
    ) -> None:
        super().__init__()
        require_counts(task__log_every=log_every, trainer__val_every=val_every, trainer__max_steps=max_steps)
        self.model = model.to(memory_format=torch.channels_last)
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.seed = seed
        self.log_every = log_every
        self.val_every = val_every
        self.max_steps = max_steps
        self.batches_seen = 0
        self.latest: Terms | None = None
        self.listeners: list[Callable[[VAETask], None]] = []
        self.stopping = False
        self.means = MetricCollection(
            {name: MeanMetric(nan_strategy="disable") for name in METRICS}, compute_groups=False
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer and, if there is one, its schedule over batches."""
        optimizer = self.make_optimizer(self.model.parameters())
        if self.make_schedule is None:
            return {"optimizer": optimizer}
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def training_step(self, batches: Batches, batch_idx: int) -> None:
        """Train up to the next validation."""
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, Optimizer)
        for number in range(self.batches_seen, self.stretch_end()):
            if self.stopping:
                break
            self.latest = self.step(batches[number], optimizer)
            if schedule is not None:
                schedule.step()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
            self.batches_seen = number + 1
            if self.batches_seen % self.log_every == 0:
                self.report_training(optimizer.param_groups[0]["lr"])
            for listener in self.listeners:
                listener(self)
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = self.batches_seen
        self.trainer.should_stop = self.stopping or self.batches_seen >= self.max_steps

    def step(self, batch: Sample, optimizer: Optimizer) -> Terms:
        """Take one step of the optimizer and return the batch's terms."""
        reseed(self.device, "train", self.seed, self.batches_seen, self.global_rank)
        terms = self.objective(self.model, Sample(*(tensor.to(self.device) for tensor in batch)), self.batches_seen)
        optimizer.zero_grad()
        terms.loss.mean().backward()
        optimizer.step()
        return terms

    def stretch_end(self) -> int:
        """Return the number of batches after which Lightning is to have its turn."""
        return min((self.batches_seen // self.val_every + 1) * self.val_every, self.max_steps)

    def report_training(self, lr: float) -> None:
        """Log the last batch."""
        assert self.latest is not None
        terms = {f"train/{name}": value.detach().mean().item() for name, value in self.latest._asdict().items()}
        self._refuse_nonfinite(terms["train/loss"], "the training loss")
        self.report(terms | {"train/lr": lr})

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        """Add a batch to the validation metrics; its noise is the same at every validation."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Sample, batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._evaluate(batch, "test", batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._conclude("test")

    def report(self, metrics: dict[str, float]) -> None:
        """Send metrics to every logger at the present batch."""
        for logger in self.loggers:
            logger.log_metrics(metrics, step=self.batches_seen)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store the number of batches, from which order and noise follow; not Lightning's loop counts."""
        checkpoint["batches_seen"] = self.batches_seen
        del checkpoint["loops"]

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Go on counting where the checkpoint stopped."""
        self.batches_seen = int(str(checkpoint["batches_seen"]))

    def _evaluate(self, batch: Sample, phase: str, batch_idx: int) -> None:
        reseed(self.device, phase, self.seed, batch_idx, self.global_rank)
        for name, values in evaluation_metrics(self.model(batch.image), batch.image).items():
            self.means[name].update(values)

    def _conclude(self, phase: str) -> None:
        metrics = {f"{phase}/{name}": value for name, value in self.means.compute().items()}
        self.means.reset()
        if self.trainer.sanity_checking:
            return
        self._refuse_nonfinite(float(metrics[f"{phase}/neg_elbo"]), f"{phase}/neg_elbo")
        self.log_dict(metrics, logger=False)
        self.report({name: value.item() for name, value in metrics.items()})

    def _refuse_nonfinite(self, value: float, what: str) -> None:
        if not abs(value) < float("inf"):
            raise DivergedError(
                f"{what} is {value} after {self.batches_seen} batches; the checkpoints keep the last good state; try a"
                " smaller optimizer.lr."
            )


def evaluation_metrics(
    inference: Inference, image: Float[Tensor, "batch channels height width"]
) -> dict[str, Float[Tensor, " batch"]]:
    """Return the reported metrics of each image at one posterior sample."""
    terms = elbo_terms(inference, image)
    squares = (inference.generative.mean - image).square().sum((1, 2, 3))
    return {
        "neg_elbo": terms.loss,
        "distortion": terms.distortion,
        "rate": terms.rate,
        "mse": squares / image[0].numel(),
        "sse_kl": squares + terms.rate,
    }

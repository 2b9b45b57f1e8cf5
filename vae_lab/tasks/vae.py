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

from vae_lab.data.sample import Sample
from vae_lab.errors import DivergedError
from vae_lab.models.vae import VAE, Inference
from vae_lab.probability.objectives import Objective, Terms, elbo_terms
from vae_lab.randomness import reseed

METRICS = ("neg_elbo", "distortion", "rate", "mse", "sse_kl")


class VAETask(LightningModule):
    """Fits a VAE to an objective and reports the ELBO with weight 1 on the rate, whatever is trained.

    Logs train/{loss,distortion,rate,lr} every `log_every` batches and {val,test}/{neg_elbo,distortion,rate,mse,sse_kl}:
    nats per image, but for `mse`, the mean over pixels in [0, 1], and `sse_kl`, the summed squared error plus the
    rate. Steps are batches, counted here, since Lightning counts the steps of optimizers.

    Args:
        model: the three distributions.
        objective: what is minimised.
        optimizer: called with the parameters.
        schedule: called with the optimizer, stepped after every batch; None keeps the learning rate.
        seed: decides the noise of every batch.
        log_every: batches between two logged training batches.
    """

    def __init__(
        self,
        *,
        model: VAE,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer], LRScheduler] | None,
        seed: int,
        log_every: int,
    ) -> None:
        super().__init__()
        if log_every < 1:
            raise ValueError(f"task.log_every must be at least 1, not {log_every}.")
        self.model = model.to(memory_format=torch.channels_last)
        self.objective = objective
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.seed = seed
        self.log_every = log_every
        self.batches_seen = 0
        self.latest: Terms | None = None
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

    def training_step(self, batch: Sample, batch_idx: int) -> Float[Tensor, ""]:
        """Return the objective's mean over the batch."""
        reseed(self.device, "train", self.seed, self.batches_seen, self.global_rank)
        self.latest = self.objective(self.model, batch, self.batches_seen)
        self.batches_seen += 1  # here, since callbacks' on_train_batch_end runs before the module's
        return self.latest.loss.mean()

    def on_train_batch_end(self, outputs: object, batch: Sample, batch_idx: int) -> None:
        """Log the batch if its turn has come."""
        if self.batches_seen % self.log_every == 0 and self.latest is not None:
            terms = {f"train/{name}": value.detach().mean().item() for name, value in self.latest._asdict().items()}
            self._refuse_nonfinite(terms["train/loss"], "the training loss")
            self.report(terms | {"train/lr": self.trainer.optimizers[0].param_groups[0]["lr"]})

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
        """Store the number of batches, from which order and noise follow."""
        checkpoint["batches_seen"] = self.batches_seen

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

"""The role that every task plays: training by batches, validation and test of a latent model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric, MetricCollection

from vae_lab.data.batches import Batches
from vae_lab.data.sample import Sample
from vae_lab.distributed import averaged, largest, several
from vae_lab.errors import DivergedError, require_counts
from vae_lab.models.vae import Inference, LatentModel
from vae_lab.probability.objectives import Terms, elbo_terms
from vae_lab.randomness import reseed
from vae_lab.ranks import ranks

METRICS = ("neg_elbo", "distortion", "rate", "mse", "sse_kl")
AGREE_EVERY = 10  # batches between two moments at which several processes agree whether to stop


class Task(LightningModule, ABC):
    """Trains a latent model and reports its ELBO with weight 1 on the rate, whatever is trained.

    Logs train/{loss,distortion,rate,lr} every `log_every` batches and {val,test}/{neg_elbo,distortion,rate,mse,sse_kl}:
    nats per image, but for `mse`, the mean over pixels in [0, 1], and `sse_kl`, the summed squared error plus the
    rate. Steps are batches, counted here, since Lightning counts the steps of optimizers.

    Lightning's step is a whole stretch of batches, from one validation to the next: its hooks take a millisecond or two
    where a step of a small network takes ten, so inside a stretch there is nothing but the loop. Callbacks hear of
    stretches; who wants to hear of batches adds a function to `listeners`.

    On several devices each process takes its share of a global batch and of the images to validate on, and tasks
    average their gradients before they step. All processes stop at the same batch, which they agree on now and then.

    At each validation and in each checkpoint, weights, the optimizers' states and the sum of all training losses since
    the validation before must be finite. That costs a training step no waiting for the device.

    Args:
        model: the three distributions; what is validated, shown and, once stored, loaded from a run folder.
        seed: decides the noise of every batch.
        log_every: batches between two logged training batches.
        val_every: batches between two validations.
        max_steps: batches to train on.

    Attributes:
        batches_seen: batches trained on, in all runs that this one goes on from.
        latest: the terms of the last batch.
        notes: other numbers of the last batch to log, by name.
        listeners: called with the task after every batch.
        stopping: set it to end training after the batch in hand, or one of the next few if there are other processes.
        agreed: whether training ends, as all processes have it.
        loss_sum: sum of the training losses since the last validation; None before the first of them.
        must_improve: whether a run whose end is worse than its beginning, by `measure`, has diverged.
    """

    automatic_optimization = False  # pyright: ignore[reportAssignmentType]
    must_improve = True

    def __init__(
        self,
        *,
        model: LatentModel,
        seed: int,
        log_every: int,
        val_every: int,
        max_steps: int,
    ) -> None:
        super().__init__()
        require_counts(task__log_every=log_every, trainer__val_every=val_every, trainer__max_steps=max_steps)
        self.model = model.to(memory_format=torch.channels_last)
        self.seed = seed
        self.log_every = log_every
        self.val_every = val_every
        self.max_steps = max_steps
        self.batches_seen = 0
        self.latest: Terms | None = None
        self.notes: dict[str, Tensor] = {}
        self.listeners: list[Callable[[Task], None]] = []
        self.stopping = False
        self.agreed = False
        self.loss_sum: Tensor | None = None
        self.means = MetricCollection(
            {name: MeanMetric(nan_strategy="disable") for name in METRICS}, compute_groups=False
        )

    @abstractmethod
    def step(self, batch: Sample, *optimizers: Optimizer) -> Terms:
        """Take one step with every optimizer, in the order of `configure_optimizers`, and return the batch's terms."""

    @abstractmethod
    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return what training minimises for each image, weighed as at the end of the run; in nats where it is a bound.

        So it compares between two moments of a run, also where the weights of its terms follow a schedule.
        """

    def training_step(self, batches: Batches, batch_idx: int) -> None:
        """Train up to the next validation.

        Raises:
            DivergedError: if a number is none, as far as that is looked at.
        """
        try:
            self.train_stretch(batches)
        except RuntimeError as error:
            if "returned nan values in its" not in str(error):  # that is how torch's anomaly detection puts it
                raise
            message = f"batch {self.batches_seen + 1}: {error} Try a smaller optimizer.lr."
            raise DivergedError(message) from error

    def train_stretch(self, batches: Batches) -> None:
        """Train up to the next validation."""
        optimizers, schedules = listed(self.optimizers(use_pl_optimizer=False)), listed(self.lr_schedulers())
        for number in range(self.batches_seen, self.stretch_end()):
            if self.is_to_stop(number):
                break
            reseed(self.device, "train", self.seed, number, self.global_rank)
            self.latest = self.step(Sample(*(tensor.to(self.device) for tensor in batches[number])), *optimizers)
            loss = self.latest.loss.detach().mean()
            self.loss_sum = loss if self.loss_sum is None else self.loss_sum + loss
            for schedule in schedules:
                schedule.step()
            self.batches_seen = number + 1
            if self.batches_seen % self.log_every == 0:
                self.report_training(optimizers[0].param_groups[0]["lr"])
            for listener in self.listeners:
                listener(self)
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed = self.batches_seen
        done = self.is_to_stop(self.batches_seen) or self.batches_seen >= self.max_steps
        self.trainer.should_stop = self.trainer.should_stop or done

    def stretch_end(self) -> int:
        """Return the number of batches after which Lightning is to have its turn."""
        return min((self.batches_seen // self.val_every + 1) * self.val_every, self.max_steps)

    def is_to_stop(self, number: int) -> bool:
        """Return whether training ends before batch `number`, in all processes alike."""
        if not several():
            self.agreed = self.stopping
        elif number % AGREE_EVERY == 0:
            self.agreed = bool(largest(int(self.stopping), self.device))
        return self.agreed

    def report_training(self, lr: float) -> None:
        """Log the last batch."""
        assert self.latest is not None
        numbers = {name: value.detach().mean() for name, value in self.latest._asdict().items()} | self.notes
        means = [value.item() for value in averaged(list(numbers.values()))]
        seen = {f"train/{name}": value for name, value in zip(numbers, means, strict=True)}
        self.refuse_nonfinite(seen["train/loss"], "the training loss")
        self.report(seen | {"train/lr": lr})

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
        """Store the number of batches, from which order and noise follow; not Lightning's loop counts.

        Raises:
            DivergedError: if the state is no finite numbers, so that it is not stored as good, whoever asks for it.
        """
        self.refuse_nonfinite_state()
        checkpoint["batches_seen"] = self.batches_seen
        del checkpoint["loops"]

    def on_load_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Go on counting where the checkpoint stopped."""
        self.batches_seen = int(str(checkpoint["batches_seen"]))

    def _evaluate(self, batch: Sample, phase: str, batch_idx: int) -> None:
        number = batch_idx * ranks().size + ranks().rank
        reseed(self.device, phase, self.seed, number, 0)  # as the one process of a run draws it
        inference = self.model.given(batch.label)(batch.image)
        for name, values in evaluation_metrics(inference, batch.image).items():
            self.means[name].update(values)

    def _conclude(self, phase: str) -> None:
        metrics = {f"{phase}/{name}": value for name, value in self.means.compute().items()}
        self.means.reset()
        if self.trainer.sanity_checking:
            return
        if phase == "val":
            self.refuse_nonfinite_losses()
            self.refuse_nonfinite_state()
        self.refuse_nonfinite(float(metrics[f"{phase}/neg_elbo"]), f"{phase}/neg_elbo")
        self.log_dict(metrics, logger=False, sync_dist=True)  # already the same in all processes
        self.report({name: value.item() for name, value in metrics.items()})

    def refuse_nonfinite_losses(self) -> None:
        """Raise DivergedError unless all training losses since the last validation were finite."""
        if self.loss_sum is not None:
            (total,) = averaged([self.loss_sum])
            self.loss_sum = None
            self.refuse_nonfinite(float(total), "the training loss")

    def refuse_nonfinite_state(self) -> None:
        """Raise DivergedError unless weights and optimizers' states are finite."""
        self.refuse_nonfinite(nonfinite([*self.parameters(), *self.model.buffers()]), "a weight")
        for optimizer in self.trainer.optimizers:
            numbers = [number for state in optimizer.state.values() for number in state.values()]
            self.refuse_nonfinite(nonfinite(numbers), "a number of the optimizer's state")

    def refuse_nonfinite(self, value: float, what: str) -> None:
        """Raise DivergedError unless the value is a finite number."""
        if not abs(value) < float("inf"):
            raise DivergedError(
                f"{what} is {value} after {self.batches_seen} batches; the checkpoints keep the last good state; try a"
                " smaller optimizer.lr."
            )


def nonfinite(numbers: Iterable[object]) -> float:
    """Return a number that is not finite from the tensors among what is given; 0 if there is none."""
    for tensor in numbers:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return tensor[~tensor.isfinite()][0].item()
    return 0.0


def listed(found: object) -> list[Any]:
    """Return what Lightning hands out bare where there is one, as a list where there are more, and as None for none."""
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


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

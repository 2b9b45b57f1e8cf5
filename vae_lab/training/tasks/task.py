"""The base class of tasks: training, validation, test and prediction of a latent model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.tuner.lr_finder import _LRCallback
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from vae_lab.data.sample import Batch, Sample, as_sample
from vae_lab.errors import DivergedError
from vae_lab.probability.latent_model import Inference, LatentModel
from vae_lab.probability.likelihoods import Gaussian
from vae_lab.probability.objectives import Terms, elbo_terms
from vae_lab.system.processes import ranks
from vae_lab.system.randomness import reseed
from vae_lab.training.distributed.collectives import averaged

Kind = TypeVar("Kind", bound="Task")
METRICS = ("neg_elbo", "distortion", "rate", "mse", "sse_kl")
UNAVERAGED = "unaveraged_state_dict"
"""Where a checkpoint has the weights in training, if `state_dict` has their average."""
UNBOUNDED = 2**62
"""The step at the end of a run whose length is not known."""


class Task(LightningModule, ABC):
    """Trains a latent model and reports its ELBO with weight 1 on the rate, whatever is trained.

    Logs train/{loss,distortion,rate,lr} every `trainer.log_every_n_steps` steps, for the callbacks at every step if one
    of them has such a metric as its `monitor`, and
    {val,test}/{neg_elbo,distortion,rate,mse,sse_kl} at each validation and test: nats per image, but for `mse`, the
    mean over pixels in [0, 1], and `sse_kl`, the summed squared error plus the rate. Steps are optimizer steps, as in
    Lightning; a row of metrics has the number of steps taken.

    The noise of a batch depends on (seed, phase, batch, rank) alone, so that a resumed run repeats it. Batches may be a
    `Sample`, an image tensor or an (image, label) pair, from any DataLoader.

    At each validation and in each checkpoint, weights, the optimizers' states and the sum of all training losses since
    the validation before must be finite. That costs a training step no synchronization with the device.

    Args:
        model: the three distributions; what is validated, shown and, once stored, loaded from a run folder.
        seed: decides the noise of every batch.

    Attributes:
        loss_sum: sum of the training losses since the last validation; None before the first of them.
        is_monitored: whether a callback watches a metric of training batches.
        is_searching: whether Lightning looks for a learning rate, up to such that nothing stays finite.
        must_improve: whether a run whose end is worse than its beginning, by `measure`, has diverged.
        minimises_bound: whether a bound on -log p(x) is all that is minimised.
    """

    must_improve = True
    minimises_bound = True

    def __init__(self, *, model: LatentModel, seed: int = 0) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)
        self.seed = seed
        self.loss_sum: Tensor | None = None
        self.is_monitored = False
        self.is_searching = False
        self.means = MetricCollection(
            {name: MeanMetric(nan_strategy="disable") for name in METRICS}, compute_groups=False
        )

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls: type[Kind],
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        trust: Sequence[str] = (),
        **parts: Any,
    ) -> Kind:
        """Return the task of a checkpoint, in evaluation mode, read as tensors and plain values only.

        Args:
            checkpoint_path: of a run of vae_lab, which holds the config that the task is built from; or of somebody's
                own `lightning.Trainer`, which holds none.
            map_location: the device; None is the CPU.
            trust: packages beside vae_lab that the task of a run may be made of.
            parts: the arguments of the task, `model` and `objective` at least, where the checkpoint holds no config.

        Raises:
            DataError: if it is no readable checkpoint, or its weights do not fit.
            ValueError: if it holds no config and no parts are given, or another task's.
        """
        from vae_lab.runs.load import load_task

        task = load_task(checkpoint_path, cls, parts, trust=trust)
        return task if map_location is None else task.to(map_location)

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the batch's mean loss under "loss"."""

    @abstractmethod
    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return what training minimises for each image, weighted as at the end of the run; nats where it is a bound.

        So it compares between two moments of a run, also where the weights of its terms follow a schedule.
        """

    def judged_by(self) -> tuple[str, str]:
        """Return which of `METRICS` judges the model, and what it is; lower is better for all of them.

        A normal density with variance 1/2 is the squared error but for D/2 ln(pi), 449 of 467 nats for the bundled
        digits, so its bound is told without that constant. Where more than a bound is minimised, or none, it says
        little of the model; the squared error is what a test can measure of any.
        """
        likelihood = self.model.likelihood
        if not self.minimises_bound:
            return "mse", "squared error of a pixel; evaluate measures the samples too"
        if isinstance(likelihood, Gaussian) and likelihood.variance == 0.5:
            return "sse_kl", "squared error + KL of an image"
        return "neg_elbo", "nats of an image, an upper bound on -log p(x)"

    def trained_networks(self) -> list[nn.Module]:
        """Return the networks that take most of a training step, which `compile` is for."""
        return [self.model.encoder, self.model.decoder]

    def begin_batch(self, batch: Batch, batch_idx: int) -> Sample:
        """Return a training batch as a `Sample`, with the random generators set for it."""
        batches = self.trainer.num_training_batches
        number = self.trainer.current_epoch * (batches if isinstance(batches, int) else UNBOUNDED) + batch_idx
        reseed(self.device, "train", self.seed, number, self.global_rank)
        return as_sample(batch, check=batch_idx == 0)

    def end_batch(self, terms: Terms, notes: Mapping[str, Tensor], step: int) -> None:
        """Add the batch's loss to the sum that validation looks at, and log the batch if its turn has come.

        Args:
            terms: of each image.
            notes: other numbers to log, by name.
            step: optimizer steps taken before this batch.

        Raises:
            DivergedError: if the loss of a batch that is logged is not finite.
        """
        loss = terms.loss.detach().mean()
        self.loss_sum = loss if self.loss_sum is None else self.loss_sum + loss
        every = 1 if self.is_monitored else self.log_every_n_steps
        if not every or (step + 1) % every or self.trainer.fit_loop._should_accumulate():  # noqa: SLF001
            return
        numbers = {name: value.detach().mean() for name, value in terms._asdict().items()} | dict(notes)
        means = [value.float().cpu() for value in averaged(list(numbers.values()))]
        seen = {f"train/{name}": value for name, value in zip(numbers, means, strict=True)}
        self.refuse_nonfinite(float(seen["train/loss"]), "the training loss")
        seen["train/lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict(seen, logger=False)
        if self.log_every_n_steps and (step + 1) % self.log_every_n_steps == 0:
            self.trainer._logger_connector.log_metrics(seen, step=step + 1)  # noqa: SLF001

    def on_train_start(self) -> None:
        """Forget the losses of a learning rate finder, and look whether a callback needs the metrics of every step.

        Lightning's count of logged steps can be one behind after a resume: stock callbacks would log the next batch
        over the last row.
        """
        loop = self.trainer.fit_loop.epoch_loop
        adds_one = loop.restarting and not loop._should_accumulate()  # noqa: SLF001 - when the epoch begins
        adds_one = adds_one and (loop.restarted_on_train_batch_end or not loop.restarted_on_last)
        loop._batches_that_stepped = self.global_step - adds_one  # noqa: SLF001
        self.loss_sum = None
        callbacks: list[Callback] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self.is_monitored = any(str(getattr(one, "monitor", "")).startswith("train/") for one in callbacks)
        self.is_searching = any(isinstance(one, _LRCallback) for one in callbacks)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Repair Lightning's count of logged steps, and forget the step of the last validation.

        A ModelCheckpoint would name its files after that, if it stayed a metric.
        """
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step  # noqa: SLF001
        self.trainer._logger_connector._callback_metrics.pop("step", None)  # noqa: SLF001

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics; its noise is the same at every validation."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._evaluate(batch, "test", batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return each image's posterior mean and log sigma, [batch, nlatent], and the reconstruction from the mean."""
        sample = as_sample(batch, check=batch_idx == 0)
        model = self.model.given(sample.label)
        inference = model.infer(model.posterior(sample.image), noise=sample.image.new_zeros(1, model.nlatent))
        return {
            "posterior_mean": inference.z,
            "posterior_log_sigma": inference.posterior.stddev.log(),
            "reconstruction": inference.generative.mean,
        }

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._conclude("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._conclude("test")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the weights in training where the checkpoint has their average in their place."""
        if UNAVERAGED in checkpoint:
            checkpoint["state_dict"] = checkpoint.pop(UNAVERAGED)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to store a state that is not finite, for any callback.

        Raises:
            DivergedError: if a weight or a number of an optimizer's state is not finite.
        """
        self.refuse_nonfinite_state()

    @property
    def log_every_n_steps(self) -> int:
        """Steps between two that are logged; 0 is never."""
        return self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def total_steps(self) -> int | float:
        """Optimizer steps of the whole training; infinite where no number of steps or epochs ends it."""
        trainer = self.trainer
        epochs = trainer.max_epochs or 0
        if trainer.max_steps >= 0 and epochs <= 0:
            return trainer.max_steps
        watching: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        changes = [one for one in watching if isinstance(one, GradientAccumulationScheduler)]
        if not changes or epochs <= 0:
            return trainer.estimated_stepping_batches
        trainer.fit_loop.setup_data()  # which counts the batches
        sizes = [changes[0].get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
        steps = sum(math.ceil(trainer.num_training_batches / size) for size in sizes)
        return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)

    @property
    def last_step(self) -> int:
        """The step at the end of the run; `UNBOUNDED` where its length is not known."""
        return int(min(self.total_steps, UNBOUNDED))

    def _evaluate(self, batch: Batch, phase: str, batch_idx: int) -> None:
        number = batch_idx * ranks().size + ranks().rank
        reseed(self.device, phase, self.seed, number, 0)  # as the one process of a run draws it
        sample = as_sample(batch, check=batch_idx == 0)
        inference = self.model.given(sample.label)(sample.image)
        for name, values in evaluation_metrics(inference, sample.image).items():
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
        metrics["step"] = torch.tensor(float(self.global_step))
        self.log_dict(metrics, sync_dist=True)  # already the same in all processes

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
        """Raise DivergedError unless the value is a finite number, or learning rates are being tried out."""
        if not abs(value) < float("inf") and not self.is_searching:
            raise DivergedError(
                f"{what} is {value} after {self.global_step} batches; the checkpoints keep the last good state; try a"
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

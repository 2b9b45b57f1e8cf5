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
from vae_lab.probability.objectives import elbo_terms
from vae_lab.system.processes import ranks
from vae_lab.system.randomness import reseed
from vae_lab.training.distributed.collectives import mean_over_processes

Kind = TypeVar("Kind", bound="Task")
METRICS = ("neg_elbo", "distortion", "rate", "mse", "sse_kl")
UNAVERAGED = "unaveraged_state_dict"
"""Key of the weights in training in a checkpoint whose `state_dict` holds their average."""
UNBOUNDED = 2**62
"""Stands for the last step of a run of unknown length."""


class Task(LightningModule, ABC):
    """Base class of tasks: trains a latent model with any objective, and reports the ELBO with beta = 1.

    Every `trainer.log_every_n_steps` steps, the task logs train/{loss,distortion,rate,lr}. Callbacks receive them at
    every step if one of them has such a metric as its `monitor`. Each validation and test logs
    {val,test}/{neg_elbo,distortion,rate,mse,sse_kl} in nats per image, except `mse`, the mean over pixels in [0, 1],
    and `sse_kl`, the summed squared error plus the rate. Steps are optimizer steps, as in Lightning.

    The noise of a batch depends only on (seed, phase, batch, rank), so that a resumed run repeats it. A batch may be a
    `Sample`, an image tensor or an (image, label) pair, from any DataLoader.

    At each validation and checkpoint, the weights, the optimizer states and the sum of the training losses since the
    last validation must be finite. This check does not synchronize training steps with the device.

    Args:
        model: the model that is validated, shown and loaded from a run folder.
        seed: seed of the noise of every batch.

    Attributes:
        loss_sum: sum of the training losses since the last validation; None before the first batch.
        is_monitored: whether a callback monitors a metric of training batches.
        is_searching: whether Lightning searches for a learning rate, where losses may be infinite.
        must_improve: whether a run counts as diverged if `measure` is higher at its end than at its beginning.
        minimises_bound: whether the only loss is a bound on -log p(x).
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
        """Return the task that a checkpoint stores, in evaluation mode.

        The file may hold only tensors and plain values.

        Args:
            checkpoint_path: a checkpoint of a vae_lab run, which contains its config, or of another
                `lightning.Trainer`, which does not.
            map_location: the device; None is the CPU.
            trust: packages, besides vae_lab, whose classes the run may use.
            parts: the arguments of the task, at least `model` and `objective`, if the checkpoint has no config.

        Raises:
            DataError: if the checkpoint cannot be read, or its weights do not fit.
            ValueError: if it has no config and no parts are given, or it has the config of another task.
        """
        from vae_lab.runs.load import load_task

        task = load_task(checkpoint_path, cls, parts, trust=trust)
        return task if map_location is None else task.to(map_location)

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Train on a batch and return its mean loss under "loss"."""

    @abstractmethod
    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return the training loss of each image (nats for a bound), with scheduled loss weights at their final values.

        Values at different steps are comparable, because scheduled weights have their final values.
        """

    def judged_by(self) -> tuple[str, str]:
        """Return the name and description of the metric that judges the model, one of `METRICS`; lower is better.

        The metric is the bound, or the mean squared error if a bound is not the only loss. Under a normal density with
        variance 1/2, the bound is reported without its constant D/2 ln(pi), which is 449 of 467 nats for the bundled
        digits.
        """
        likelihood = self.model.likelihood
        if not self.minimises_bound:
            return "mse", "squared error of a pixel; evaluate measures the samples too"
        if isinstance(likelihood, Gaussian) and likelihood.variance == 0.5:
            return "sse_kl", "squared error + KL of an image"
        return "neg_elbo", "nats of an image, an upper bound on -log p(x)"

    @property
    def allows_cuda_graphs(self) -> bool:
        """Whether training with `compile=true`, as CUDA graphs, has the same losses as without."""
        return True

    def trained_networks(self) -> list[nn.Module]:
        """Return the networks that are trained, and compiled if the setting `compile` is on."""
        return [self.model.encoder, self.model.decoder]

    def begin_batch(self, batch: Batch, batch_idx: int) -> Sample:
        """Seed the random generators for a training batch, and return it as a `Sample`."""
        batches = self.trainer.num_training_batches
        number = self.trainer.current_epoch * (batches if isinstance(batches, int) else UNBOUNDED) + batch_idx
        reseed(self.device, "train", self.seed, number, self.global_rank)
        return as_sample(batch, check=batch_idx == 0)

    def end_batch(self, numbers: Mapping[str, Tensor], step: int) -> None:
        """Add the batch's mean loss to `loss_sum`, and log the batch every `log_every_n_steps` steps.

        Args:
            numbers: values to log by name, of each image or of the batch; "loss" is among them.
            step: optimizer steps taken before this batch.

        Raises:
            DivergedError: if the loss of a logged batch is not finite.
        """
        loss = numbers["loss"].detach().mean()
        self.loss_sum = loss if self.loss_sum is None else self.loss_sum + loss
        every = 1 if self.is_monitored else self.log_every_n_steps
        if not every or (step + 1) % every or self.trainer.fit_loop._should_accumulate():  # noqa: SLF001
            return
        means = mean_over_processes([value.detach().float().mean() for value in numbers.values()])
        seen = {f"train/{name}": value.cpu() for name, value in zip(numbers, means, strict=True)}
        self.refuse_nonfinite(float(seen["train/loss"]), "the training loss")
        seen["train/lr"] = torch.tensor(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict(seen, logger=False)
        if self.log_every_n_steps and (step + 1) % self.log_every_n_steps == 0:
            self.trainer._logger_connector.log_metrics(seen, step=step + 1)  # noqa: SLF001

    def on_train_start(self) -> None:
        """Reset the sum of losses; determine whether a callback monitors training or searches for a learning rate.

        After a resume, Lightning's count of logged steps can be one too low, and its own callbacks would overwrite the
        last row with the next batch.
        """
        loop = self.trainer.fit_loop.epoch_loop
        adds_one = loop.restarting and not loop._should_accumulate()  # noqa: SLF001 - at the start of the epoch
        adds_one = adds_one and (loop.restarted_on_train_batch_end or not loop.restarted_on_last)
        loop._batches_that_stepped = self.global_step - adds_one  # noqa: SLF001
        self.loss_sum = None
        callbacks: list[Callback] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self.is_monitored = any(str(getattr(one, "monitor", "")).startswith("train/") for one in callbacks)
        self.is_searching = any(isinstance(one, _LRCallback) for one in callbacks)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Correct Lightning's count of logged steps, and remove the metric "step" of the previous validation.

        Otherwise, a ModelCheckpoint would use that step in its file names.
        """
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.global_step  # noqa: SLF001
        self.trainer._logger_connector._callback_metrics.pop("step", None)  # noqa: SLF001

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the validation metrics, with the same noise at every validation."""
        self._evaluate(batch, "val", batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the test metrics."""
        self._evaluate(batch, "test", batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return each image's posterior mean and log sigma, [batch, nlatent], and its reconstruction from the mean."""
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
        """Make a resumed run load the unaveraged weights if the checkpoint's `state_dict` holds their average."""
        if UNAVERAGED in checkpoint:
            checkpoint["state_dict"] = checkpoint.pop(UNAVERAGED)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that weights and optimizer states are finite before the checkpoint is written.

        Raises:
            DivergedError: if a weight or an optimizer state is not finite.
        """
        self.refuse_nonfinite_state()

    @property
    def log_every_n_steps(self) -> int:
        """The number of steps between two logged batches; 0 turns logging off."""
        return self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def total_steps(self) -> int | float:
        """Optimizer steps of the whole training; infinite without a limit of steps or epochs."""
        trainer = self.trainer
        epochs = trainer.max_epochs or 0
        if trainer.max_steps >= 0 and epochs <= 0:
            return trainer.max_steps
        watching: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        changes = [one for one in watching if isinstance(one, GradientAccumulationScheduler)]
        if not changes or epochs <= 0:
            return trainer.estimated_stepping_batches
        trainer.fit_loop.setup_data()  # counts the batches
        sizes = [changes[0].get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
        steps = sum(math.ceil(trainer.num_training_batches / size) for size in sizes)
        return steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)

    @property
    def last_step(self) -> int:
        """The last step of the run; `UNBOUNDED` if its length is unknown."""
        return int(min(self.total_steps, UNBOUNDED))

    def _evaluate(self, batch: Batch, phase: str, batch_idx: int) -> None:
        number = batch_idx * ranks().size + ranks().rank
        reseed(self.device, phase, self.seed, number, 0)  # equal for any number of processes
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
        self.log_dict(metrics, sync_dist=True)  # the values are already equal in all processes

    def refuse_nonfinite_losses(self) -> None:
        """Raise DivergedError if a training loss since the last validation was not finite."""
        if self.loss_sum is not None:
            (total,) = mean_over_processes([self.loss_sum])
            self.loss_sum = None
            self.refuse_nonfinite(float(total), "the training loss")

    def refuse_nonfinite_state(self) -> None:
        """Raise DivergedError if a weight or an optimizer state is not finite."""
        self.refuse_nonfinite(nonfinite([*self.parameters(), *self.model.buffers()]), "a weight")
        for optimizer in self.trainer.optimizers:
            numbers = [number for state in optimizer.state.values() for number in state.values()]
            self.refuse_nonfinite(nonfinite(numbers), "a number of the optimizer's state")

    def refuse_nonfinite(self, value: float, what: str) -> None:
        """Raise DivergedError if `value` is not finite, except while Lightning searches for a learning rate."""
        if not abs(value) < float("inf") and not self.is_searching:
            raise DivergedError(
                f"{what} is {value} after {self.global_step} batches; the checkpoints hold the last finite state; try a"
                " smaller optimizer.lr."
            )


def nonfinite(numbers: Iterable[object]) -> float:
    """Return the first infinite or NaN value in the floating-point tensors of `numbers`; 0 if all are finite."""
    for tensor in numbers:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return tensor[~tensor.isfinite()][0].item()
    return 0.0


def as_list(found: object) -> list[Any]:
    """Return a list of what Lightning returned: [] for None, [x] for a single object x, or the list itself."""
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def evaluation_metrics(
    inference: Inference, image: Float[Tensor, "batch channels height width"]
) -> dict[str, Float[Tensor, " batch"]]:
    """Return the metrics of each image by name, from one posterior sample."""
    terms = elbo_terms(inference, image)
    squares = (inference.generative.mean - image).square().sum((1, 2, 3))
    return {
        "neg_elbo": terms.loss,
        "distortion": terms.distortion,
        "rate": terms.rate,
        "mse": squares / image[0].numel(),
        "sse_kl": squares + terms.rate,
    }

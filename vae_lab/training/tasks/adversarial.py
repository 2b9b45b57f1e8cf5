"""`AdversarialTask`: what tasks with adversaries share."""

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from vae_lab.adversarial.adaptive_weight import gradient_norm
from vae_lab.adversarial.adversaries import AdversarialBatch, Adversary, AdversaryLosses
from vae_lab.adversarial.collapse_guard import WATCHED, BalanceGuard
from vae_lab.data.sample import Batch, Sample
from vae_lab.errors import DivergedError, require_number
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import ELBO, Objective, elbo_terms
from vae_lab.probability.schedules import value_at
from vae_lab.training.distributed.collectives import mean_over_processes
from vae_lab.training.distributed.gradients import all_finite
from vae_lab.training.ema import WeightEMA
from vae_lab.training.snapshot import AnyOptimizer, Snapshot
from vae_lab.training.tasks.perceptual import Perceptual
from vae_lab.training.tasks.task import Task, as_list

log = logging.getLogger(__name__)


class ModelLosses(NamedTuple):
    """The VAE's losses in one batch, as means over images.

    Attributes:
        bound: weighted sum of distortion and rate.
        feature_matching: distance between images and reconstructions in the features of the adversaries.
        perceptual: distance between images and reconstructions in the features of a pretrained network.
        generator_loss: adversarial loss, which trains only the decoder.
    """

    bound: Tensor
    feature_matching: Tensor
    perceptual: Tensor
    generator_loss: Tensor


class AdversarialTask(Task):
    """Base class of tasks that train a VAE and adversaries, with an EMA, a collapse guard and snapshots.

    `learner` holds the weights in training, and `model` their EMA, which is validated, shown and loaded from a run
    folder. A checkpoint contains both. If the guard detects a collapse, the task rolls back to its last snapshot and
    lowers the adversarial weight.

    Args:
        model: the model.
        objective: the ELBO, with or without a schedule of beta.
        adversaries: adversaries by name; the guard monitors the one called discriminator.
        perceptual: a fixed distance between images and reconstructions.
        guard: detector of a collapse.
        distortion: weight of the distortion.
        ema_decay: decay of the EMA per batch.
        gradient_clip_val: norm to which the gradients of each optimizer are clipped; None does not clip.
        settings: see `Task`.

    Attributes:
        guarded_from: number of batches after which the guard looks.
    """

    automatic_optimization = False  # pyright: ignore[reportAssignmentType]
    must_improve = False  # the ELBO is only one of the losses
    minimises_bound = False
    guarded_from = 0

    def __init__(
        self,
        *,
        model: LatentModel,
        objective: Objective,
        adversaries: dict[str, Adversary],
        perceptual: Perceptual,
        guard: BalanceGuard,
        distortion: float,
        ema_decay: float,
        gradient_clip_val: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model=model, **settings)
        if not isinstance(objective, ELBO):
            raise ValueError(
                f"objective={type(objective).__name__}: a VAE with adversaries minimises the ELBO's terms; choose"
                " objective=elbo, elbo_warmup or elbo_cyclical."
            )
        if "discriminator" not in adversaries:
            raise ValueError("task.adversaries needs a discriminator, which the guard monitors; or choose task=vae.")
        require_number("task.distortion", distortion)
        require_number("task.ema_decay", ema_decay, "[0, 1)")
        self.objective = objective
        self.beta = objective.beta
        self.learner = copy.deepcopy(self.model)
        self.model.requires_grad_(requires_grad=False)
        self.adversaries = nn.ModuleDict(adversaries).to(memory_format=torch.channels_last)
        self.perceptual = perceptual
        self.guard = guard
        self.distortion = distortion
        self.gradient_clip_val = gradient_clip_val
        self.ema = WeightEMA(self.model, self.learner, ema_decay)
        self.snapshot = Snapshot({"model": self.model, "learner": self.learner, "adversaries": self.adversaries})
        self.notes: dict[str, Tensor] = {}

    @abstractmethod
    def step(self, batch: Sample, step: int, *optimizers: AnyOptimizer) -> dict[str, Tensor]:
        """Take step number `step`, from 0, with every optimizer; return values to log by name, among them "loss"."""

    @property
    def allows_cuda_graphs(self) -> bool:
        """Whether all adversaries allow CUDA graphs."""
        return all(adversary.allows_cuda_graphs for adversary in self.adversaries.values())

    def trained_networks(self) -> list[nn.Module]:
        """Return the networks that are trained: encoder, decoder and those of the adversaries."""
        networks = [getattr(adversary, "network", None) for adversary in self.adversaries.values()]
        return [self.learner.encoder, self.learner.decoder, *(one for one in networks if isinstance(one, nn.Module))]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Take one step with every optimizer and return the batch's mean loss under "loss".

        Lightning counts only the steps of the model's optimizer, so that a batch is one step, as in other tasks.
        """
        sample = self.begin_batch(batch, batch_idx)
        first, *others = as_list(self.optimizers())
        step = self.global_step
        numbers = self.step(sample, step, first, *(optimizer.optimizer for optimizer in others))
        for schedule in as_list(self.lr_schedulers()):
            schedule.step()
        self.end_batch(numbers | self.notes, step)
        return {"loss": numbers["loss"].mean()}

    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return each image's negative ELBO under the EMA of the weights, with beta at its final value."""
        inference = self.model.given(batch.label)(batch.image)
        return elbo_terms(inference, batch.image, value_at(self.beta, self.last_step)).loss

    def take_first_snapshot(self, batch: Sample, step: int, optimizers: Sequence[AnyOptimizer]) -> None:
        """Take the first snapshot where the guard begins to look.

        Raises:
            ValueError: if the batch is a single image.
            DivergedError: if a weight is not finite.
        """
        if len(batch.image) < 2:
            raise ValueError(
                "data.batch_size=1 gives no spread of samples, which the guard monitors; choose at least 2."
            )
        if self.snapshot.state is None and step >= self.guarded_from:
            if not all_finite(self.learner, self.adversaries):
                super().refuse_nonfinite(math.nan, "a weight")
            self.snapshot.take(step, optimizers)

    def step_optimizers(self, *optimizers: AnyOptimizer) -> bool:
        """Step every optimizer if all gradients are finite, clear the gradients, and return whether they were finite.

        A gradient that is not finite would make weights infinite while the loss is still finite. The first optimizer
        always steps, because Lightning counts its steps; without gradients the step changes nothing.
        """
        parts = (self.learner, *self.adversaries.values())
        gradients = [[one.grad for one in part.parameters() if one.grad is not None] for part in parts]
        norms = [gradient_norm(some) for some in gradients if some]  # that of none would be on the CPU
        is_finite = not norms or bool(torch.stack(norms).isfinite().all())
        for i, optimizer in enumerate(optimizers):
            if not is_finite:
                optimizer.zero_grad()
            elif self.gradient_clip_val is not None:
                inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
                self.clip_gradients(inner, self.gradient_clip_val, "norm")
            if is_finite or i == 0:
                optimizer.step()
            optimizer.zero_grad()
        return is_finite

    def note(
        self,
        shown: AdversarialBatch,
        found: dict[str, AdversaryLosses],
        losses: ModelLosses,
        weights: dict[str, Tensor],
    ) -> None:
        """Store the batch's losses and statistics for the log, and pass those in `WATCHED` to the guard."""
        notes = {name: value.detach() for name, value in (losses._asdict() | weights).items()}
        for name, one in found.items():
            notes |= {f"{name}_loss": one.loss.detach(), **one.notes}
        spreads = [images.detach().float().std(0).mean() for images in (shown.sample, shown.image)]
        notes["spread"] = spreads[0] / (spreads[1] + 1e-8)
        self.notes = notes
        watched = notes | {"loss": losses.bound.detach() + notes["discriminator_loss"]}
        means = mean_over_processes([watched[name] for name in WATCHED])  # all processes must decide equally
        self.guard.observe(**dict(zip(WATCHED, means, strict=True)))

    def watch(self, seen: int, *optimizers: AnyOptimizer, is_finite: bool) -> None:
        """Check for a collapse after `seen` batches: roll back if there is one, else take a snapshot.

        The guard checks at its own interval. A gradient that is not finite is always a collapse.
        """
        looks = seen % self.guard.every == 0
        if not is_finite:
            self.roll_back(seen, self.guard.lost() or "a gradient is not finite", *optimizers)
        elif seen > self.guarded_from and (looks or seen % (self.log_every_n_steps or seen) == 0):
            complaint = self.guard.look() if looks else self.guard.lost()
            well = looks and self.guard.well
            if complaint is None and well and not all_finite(self.learner, self.adversaries):
                complaint = "a weight is not finite"
            if complaint is not None:
                self.roll_back(seen, complaint, *optimizers)
            elif well:
                self.snapshot.take(seen, optimizers)

    def roll_back(self, seen: int, complaint: str, *optimizers: AnyOptimizer) -> None:
        """Lower the adversarial weight and restore the last snapshot.

        Raises:
            DivergedError: if there is no snapshot yet, or there were too many collapses.
        """
        if self.snapshot.state is None:
            super().refuse_nonfinite(math.nan, "a gradient")
        if self.guard.ncollapses >= self.guard.most:
            raise DivergedError(
                f"batch {seen}: {complaint}, after {self.guard.most} earlier collapses; the checkpoints hold the last"
                " validated weights; try a smaller task.adversary_optimizer.lr, optimizer.lr or task.adversarial_ratio."
            )
        self.guard.lower()
        at = self.snapshot.restore(optimizers)
        line = "batch %d: %s; restored the weights of batch %d and multiplied the adversarial weight by %g"
        log.warning(line, seen, complaint, at, float(self.guard.scale))

    def refuse_nonfinite(self, value: float, what: str) -> None:
        """Raise DivergedError if `value` is not finite; where the guard looks, leave a training loss to the guard."""
        if what != "the training loss" or self.global_step <= self.guarded_from:
            super().refuse_nonfinite(value, what)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store the snapshot in the checkpoint, so that a resumed run can roll back to it."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["snapshot"] = self.snapshot.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the snapshot from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self.snapshot.state = checkpoint["snapshot"]

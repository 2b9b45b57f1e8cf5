"""`VAEGANTask`: training of a VAE with adversaries."""

import copy
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_lab.adversarial.adaptive_weight import adaptive_weight, gradient_norm
from vae_lab.adversarial.adversaries import AdversarialBatch, Adversary, AdversaryLosses
from vae_lab.adversarial.collapse_guard import WATCHED, BalanceGuard
from vae_lab.data.sample import Batch, Sample
from vae_lab.errors import DivergedError, require_count, require_number
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import ELBO, Objective, Terms, elbo_terms
from vae_lab.probability.schedules import value_at
from vae_lab.training.distributed.collectives import mean_over_processes, synchronize_buffers
from vae_lab.training.distributed.gradients import all_finite, mean_of_groups, set_gradients, trainable
from vae_lab.training.ema import WeightEMA
from vae_lab.training.schedules import make_schedule
from vae_lab.training.snapshot import AnyOptimizer, Snapshot
from vae_lab.training.tasks.perceptual import Perceptual
from vae_lab.training.tasks.task import Task, as_list
from vae_lab.training.tasks.vaegan_settings import adversary_optimizers, read_weight_bounds

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


class VAEGANTask(Task):
    """Trains a VAE on the ELBO and on the losses of adversaries that receive its reconstructions and samples.

    With a discriminator, this is Larsen et al. 2016, https://arxiv.org/abs/1512.09300; with an additional classifier
    and mean feature matching, Bao et al. 2017, https://arxiv.org/abs/1703.10155. As in Larsen et al., all gradients
    come from one forward pass before any optimizer steps, and the adversarial loss does not train the encoder.

    `learner` holds the weights in training, and `model` their EMA, which is validated, shown and loaded from a run
    folder. A checkpoint contains both.

    The adversarial loss is weighted by `adaptive_weight`. For the first `warmup` batches only the adversaries train on
    it; over the next `warmup` batches the weights of the adversarial loss and of feature matching grow linearly. If the
    guard detects a collapse, the task rolls back to its last snapshot and lowers the adversarial weight.

    Args:
        model: the model.
        objective: the ELBO, with or without a schedule of beta.
        optimizer: factory called with the model's named parameters.
        schedule: factory of a learning-rate schedule per step; see `make_schedule`. None keeps the learning rate.
        adversaries: adversaries by name; the guard monitors the one called discriminator.
        adversary_optimizer: factory called with the named parameters of each adversary.
        perceptual: a fixed distance between images and reconstructions.
        guard: detector of a collapse.
        distortion: weight of the distortion; Larsen et al. use 0, with feature matching instead.
        adversarial_ratio: norm of the adversarial gradient divided by the norm of the other gradients.
        weight_bounds: smallest and largest weight of the adversarial loss.
        warmup: batches in which only the adversaries train on the adversarial loss.
        samples: whether adversaries receive samples from the prior; otherwise they receive reconstructions twice.
        ema_decay: decay of the EMA per batch.
        gradient_clip_val: norm to which the gradients of each optimizer are clipped; None does not clip.
        settings: see `Task`.
    """

    automatic_optimization = False  # pyright: ignore[reportAssignmentType]
    must_improve = False  # the ELBO is only one of the losses
    minimises_bound = False

    def __init__(
        self,
        *,
        model: LatentModel,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler] | None,
        adversaries: dict[str, Adversary],
        adversary_optimizer: Callable[..., Optimizer],
        perceptual: Perceptual,
        guard: BalanceGuard,
        distortion: float,
        adversarial_ratio: float,
        weight_bounds: object,
        warmup: int,
        samples: bool,
        ema_decay: float,
        gradient_clip_val: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model=model, **settings)
        require_count("task.warmup", warmup)
        if not isinstance(objective, ELBO):
            raise ValueError(
                f"objective={type(objective).__name__}: a VAE with adversaries minimises the ELBO's terms; choose"
                " objective=elbo, elbo_warmup or elbo_cyclical."
            )
        if "discriminator" not in adversaries:
            raise ValueError("task.adversaries needs a discriminator, which the guard monitors; or choose task=vae.")
        require_number("task.adversarial_ratio", adversarial_ratio)
        require_number("task.distortion", distortion)
        require_number("task.ema_decay", ema_decay, "[0, 1)")
        self.objective = objective
        self.beta = objective.beta
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.learner = copy.deepcopy(self.model)
        self.model.requires_grad_(requires_grad=False)
        self.adversaries = nn.ModuleDict(adversaries).to(memory_format=torch.channels_last)
        self.make_adversary_optimizer = adversary_optimizer
        self.perceptual = perceptual
        self.guard = guard
        self.distortion = distortion
        self.adversarial_ratio = adversarial_ratio
        self.weight_bounds = read_weight_bounds(weight_bounds)
        self.warmup = warmup
        self.samples = samples
        self.gradient_clip_val = gradient_clip_val
        self.ema = WeightEMA(self.model, self.learner, ema_decay)
        self.snapshot = Snapshot({"model": self.model, "learner": self.learner, "adversaries": self.adversaries})
        self.notes: dict[str, Tensor] = {}

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Return the optimizers of VAE and adversaries, and the learning-rate schedule of the VAE's optimizer."""
        self.objective.plan(self.total_steps)
        optimizer = self.make_optimizer(self.learner.named_parameters())
        others = adversary_optimizers(self.make_adversary_optimizer, self.adversaries.values())
        if self.make_schedule is None:
            return [optimizer, *others], []
        return [optimizer, *others], [{"scheduler": make_schedule(self.make_schedule, optimizer, self.total_steps)}]

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
        terms = self.step(sample, step, first, *(optimizer.optimizer for optimizer in others))
        for schedule in as_list(self.lr_schedulers()):
            schedule.step()
        self.end_batch(terms, self.notes, step)
        return {"loss": terms.loss.mean()}

    def step(self, batch: Sample, step: int, *optimizers: AnyOptimizer) -> Terms:
        """Take step number `step`, from 0, with every optimizer; return loss, distortion and rate of each image."""
        if len(batch.image) < 2:
            raise ValueError(
                "data.batch_size=1 gives no spread of samples, which the guard monitors; choose at least 2."
            )
        if self.snapshot.state is None and step >= 2 * self.warmup:  # the first snapshot follows the warm-up
            if not all_finite(self.learner, self.adversaries):
                super().refuse_nonfinite(math.nan, "a weight")
            self.snapshot.take(step, optimizers)
        ramp = min(max(step / self.warmup - 1, 0.0), 1.0)
        terms, shown = self.forward_batch(batch, step)
        found = {name: adversary(shown, step) for name, adversary in self.adversaries.items()}
        losses = self.model_losses(terms, shown, found)
        weights = self.set_model_gradients(losses, ramp)
        for name, adversary in self.adversaries.items():
            set_gradients(list(adversary.parameters()), found[name].loss)
        is_finite = self.step_optimizers(*optimizers)
        synchronize_buffers(self.adversaries)
        self.ema.update(step)
        self.note(shown, found, losses, weights)
        self.watch(step + 1, *optimizers, is_finite=is_finite)
        self.notes |= {"adversarial_scale": self.guard.scale.clone(), "ncollapses": self.guard.ncollapses.clone()}
        matching = self.feature_matching_weight(ramp) * losses.feature_matching
        return Terms(terms.loss + (matching + losses.perceptual).detach(), terms.distortion, terms.rate)

    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return each image's negative ELBO under the EMA of the weights, with beta at its final value."""
        inference = self.model.given(batch.label)(batch.image)
        return elbo_terms(inference, batch.image, value_at(self.beta, self.last_step)).loss

    def feature_matching_weight(self, ramp: float) -> float:
        """Return the weight of feature matching: 1 if the distortion has weight 0, else `ramp`."""
        return ramp if self.distortion else 1.0

    def forward_batch(self, batch: Sample, step: int) -> tuple[Terms, AdversarialBatch]:
        """Return the loss, distortion and rate of each image, and the batch of images for the adversaries."""
        view = self.learner.given(batch.label)
        inference = view(batch.image)
        terms = elbo_terms(inference, batch.image)
        loss = self.distortion * terms.distortion + value_at(self.beta, step) * terms.rate
        reconstruction = inference.generative.mean
        sample = reconstruction
        if self.samples:
            sample = view.generative(view.prior().sample((len(batch.image),))).mean
        return terms._replace(loss=loss), AdversarialBatch(batch.image, reconstruction, sample, batch.label)

    def model_losses(self, terms: Terms, shown: AdversarialBatch, found: dict[str, AdversaryLosses]) -> ModelLosses:
        """Return the VAE's losses, as means over the batch."""
        return ModelLosses(
            bound=terms.loss.mean(),
            feature_matching=torch.stack([one.feature_matching.mean() for one in found.values()]).sum(),
            perceptual=self.perceptual(shown.image, shown.reconstruction).mean(),
            generator_loss=torch.stack([one.generator_loss for one in found.values()]).sum(),
        )

    def set_model_gradients(self, losses: ModelLosses, ramp: float) -> dict[str, Tensor]:
        """Set the VAE's gradients, and return the weight and the relative norm of the adversarial gradient.

        The relative norm is that of the weighted adversarial gradient divided by that of the other gradients.
        """
        decoder = trainable(self.learner.decoder.parameters())
        keep: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
        adversarial = torch.autograd.grad(losses.generator_loss, decoder, **keep) if decoder else ()
        others = losses.bound + self.feature_matching_weight(ramp) * losses.feature_matching + losses.perceptual
        parameters = trainable(self.learner.parameters())
        gradients = torch.autograd.grad(others, parameters, **keep)
        adversarial, gradients = mean_of_groups(adversarial, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        reference = [parameter.grad for parameter in decoder]
        weight = adaptive_weight(reference, adversarial, self.adversarial_ratio, self.weight_bounds)
        weight = weight * self.guard.scale * ramp
        ratio = weight * gradient_norm(adversarial) / (gradient_norm(reference) + 1e-8)
        for parameter, gradient in zip(decoder, adversarial, strict=True):
            if gradient is not None and parameter.grad is not None:
                parameter.grad += weight * gradient
        return {"adversarial_weight": weight, "gradient_ratio": ratio}

    def step_optimizers(self, *optimizers: AnyOptimizer) -> bool:
        """Step every optimizer if all gradients are finite, clear the gradients, and return whether they were finite.

        A gradient that is not finite would make weights infinite while the loss is still finite. The first optimizer
        always steps, because Lightning counts its steps; without gradients the step changes nothing.
        """
        parts = (self.learner, *self.adversaries.values())
        norms = [gradient_norm([parameter.grad for parameter in part.parameters()]) for part in parts]
        is_finite = bool(torch.stack(norms).isfinite().all())
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
        elif seen > 2 * self.warmup and (looks or seen % (self.log_every_n_steps or seen) == 0):
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
        """Raise DivergedError if `value` is not finite; after the warm-up, leave a training loss to the guard."""
        if what != "the training loss" or self.global_step <= 2 * self.warmup:
            super().refuse_nonfinite(value, what)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store the snapshot in the checkpoint, so that a resumed run can roll back to it."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["snapshot"] = self.snapshot.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load the snapshot from the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self.snapshot.state = checkpoint["snapshot"]

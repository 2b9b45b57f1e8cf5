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
from vae_lab.errors import DivergedError, require_count
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import ELBO, Objective, Terms, elbo_terms
from vae_lab.probability.schedules import value_at
from vae_lab.training.distributed.collectives import averaged, share_buffers
from vae_lab.training.distributed.gradients import averaged_alike, finite, take, trainable
from vae_lab.training.ema import WeightEMA
from vae_lab.training.schedules import make_schedule
from vae_lab.training.snapshot import AnyOptimizer, Snapshot
from vae_lab.training.tasks.perceptual import Perceptual
from vae_lab.training.tasks.task import Task, listed
from vae_lab.training.tasks.vaegan_settings import adversary_optimizers, read_weight_bounds, require_settings

log = logging.getLogger(__name__)


class ModelLosses(NamedTuple):
    """What the model minimises in one batch; means over images, weighted by their adversaries alone.

    Attributes:
        bound: weighted distortion and rate.
        feature_matching: distance between images and reconstructions in the adversaries' features.
        perceptual: distance in a pretrained network's features.
        generator_loss: adversarial loss, for the decoder alone.
    """

    bound: Tensor
    feature_matching: Tensor
    perceptual: Tensor
    generator_loss: Tensor


class VAEGANTask(Task):
    """Fits a VAE to the ELBO and to the losses of adversaries on its reconstructions and samples.

    With a discriminator it is Larsen et al. 2016, https://arxiv.org/abs/1512.09300; with a classifier beside it and
    mean feature matching, Bao et al. 2017, https://arxiv.org/abs/1703.10155. As in the former, all gradients are taken
    from one forward pass before any optimizer steps, and the adversarial loss does not train the encoder.

    `model` is the EMA of the weights in training, which are `learner`. What is validated, shown, generated from and
    loaded from a run folder is the EMA; a checkpoint has both.

    The adversarial loss is weighted by `adaptive_weight`. It and feature matching are off for `warmup` batches, in
    which the adversaries train alone, and their weights grow linearly over as many again. If the guard finds a
    collapse, the task rolls back to its last snapshot with a smaller adversarial weight.

    Args:
        model: the three distributions.
        objective: the ELBO, with or without a schedule of beta.
        optimizer: called with the model's named parameters.
        schedule: called with that optimizer, and with `total_steps` if it takes that, stepped after every step; None
            keeps the learning rate.
        adversaries: by name; the one called discriminator is watched by the guard.
        adversary_optimizer: called with the named parameters of each.
        perceptual: a distance between images and reconstructions that is not trained.
        guard: detects a collapse.
        distortion: weight of the distortion; Larsen et al. have 0, and feature matching in its place.
        adversarial_ratio: norm of the adversarial gradient, as a share of the norm of the others.
        weight_bounds: least and largest weight of the adversarial loss.
        warmup: batches in which the adversaries train alone.
        samples: whether adversaries see samples from the prior; else they see reconstructions twice.
        ema_decay: of the EMA, per batch.
        gradient_clip_val: norm to which the gradients of each optimizer are clipped; None leaves them.
        settings: see `Task`.
    """

    automatic_optimization = False  # pyright: ignore[reportAssignmentType]
    must_improve = False  # the ELBO is one of several things that are minimised
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
        require_settings(
            list(adversaries), adversarial_ratio=adversarial_ratio, distortion=distortion, ema_decay=ema_decay
        )
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
        """Return an optimizer for the model and one for each adversary, and the schedule of the first."""
        self.objective.plan(self.total_steps)
        optimizer = self.make_optimizer(self.learner.named_parameters())
        others = adversary_optimizers(self.make_adversary_optimizer, self.adversaries.values())
        if self.make_schedule is None:
            return [optimizer, *others], []
        return [optimizer, *others], [{"scheduler": make_schedule(self.make_schedule, optimizer, self.total_steps)}]

    def trained_networks(self) -> list[nn.Module]:
        """Return the networks in training, those of the adversaries included."""
        networks = [getattr(adversary, "network", None) for adversary in self.adversaries.values()]
        return [self.learner.encoder, self.learner.decoder, *(one for one in networks if isinstance(one, nn.Module))]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Take one step with every optimizer and return the batch's mean loss under "loss".

        Lightning counts the steps of the model's optimizer alone, so that a batch is one step, as for other tasks.
        """
        sample = self.begin_batch(batch, batch_idx)
        first, *others = listed(self.optimizers())
        step = self.global_step
        terms = self.step(sample, step, first, *(optimizer.optimizer for optimizer in others))
        for schedule in listed(self.lr_schedulers()):
            schedule.step()
        self.end_batch(terms, self.notes, step)
        return {"loss": terms.loss.mean()}

    def step(self, batch: Sample, step: int, *optimizers: AnyOptimizer) -> Terms:
        """Take one step with every optimizer, after `step` others, and return the batch's terms."""
        if len(batch.image) < 2:
            raise ValueError("data.batch_size=1 shows no spread of samples, which the guard watches; choose 2 or more.")
        if self.snapshot.state is None and step >= 2 * self.warmup:  # never one from before the warm-up's end
            if not finite(self.learner, self.adversaries):
                super().refuse_nonfinite(math.nan, "a weight")
            self.snapshot.take(step, optimizers)
        ramp = min(max(step / self.warmup - 1, 0.0), 1.0)
        terms, shown = self.forward_batch(batch, step)
        found = {name: adversary(shown, step) for name, adversary in self.adversaries.items()}
        losses = self.model_losses(terms, shown, found)
        weights = self.set_model_gradients(losses, ramp)
        for name, adversary in self.adversaries.items():
            take(list(adversary.parameters()), found[name].loss)
        is_finite = self.step_optimizers(*optimizers)
        share_buffers(self.adversaries)
        self.ema.update(step)
        self.note(shown, found, losses, weights)
        self.watch(step + 1, *optimizers, is_finite=is_finite)
        self.notes |= {"adversarial_scale": self.guard.scale.clone(), "ncollapses": self.guard.ncollapses.clone()}
        matching = self.feature_matching_weight(ramp) * losses.feature_matching
        return Terms(terms.loss + (matching + losses.perceptual).detach(), terms.distortion, terms.rate)

    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return the weighted ELBO of each image under the EMA of the weights, as at the end of the run."""
        inference = self.model.given(batch.label)(batch.image)
        return elbo_terms(inference, batch.image, value_at(self.beta, self.last_step)).loss

    def feature_matching_weight(self, ramp: float) -> float:
        """Return the weight of feature matching: 1 from the start where it is the only reconstruction loss."""
        return ramp if self.distortion else 1.0

    def forward_batch(self, batch: Sample, step: int) -> tuple[Terms, AdversarialBatch]:
        """Return the ELBO's terms, the loss weighted, and what the adversaries see."""
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
        """Return what the model minimises."""
        return ModelLosses(
            bound=terms.loss.mean(),
            feature_matching=torch.stack([one.feature_matching.mean() for one in found.values()]).sum(),
            perceptual=self.perceptual(shown.image, shown.reconstruction).mean(),
            generator_loss=torch.stack([one.generator_loss for one in found.values()]).sum(),
        )

    def set_model_gradients(self, losses: ModelLosses, ramp: float) -> dict[str, Tensor]:
        """Set the model's gradients, the adversarial ones weighted.

        Returns:
            The adversarial weight, and the norm of the weighted adversarial gradient over that of the others.
        """
        decoder = trainable(self.learner.decoder.parameters())
        keep: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
        adversarial = torch.autograd.grad(losses.generator_loss, decoder, **keep) if decoder else ()
        others = losses.bound + self.feature_matching_weight(ramp) * losses.feature_matching + losses.perceptual
        parameters = trainable(self.learner.parameters())
        gradients = torch.autograd.grad(others, parameters, **keep)
        adversarial, gradients = averaged_alike(adversarial, gradients)
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
        """Step every optimizer if all gradients are finite, return whether they are, and clear them.

        A step along a gradient that is not finite would leave such weights beside a loss that still is finite. The
        first optimizer, whose steps Lightning counts, steps in any case: without gradients it moves nothing.
        """
        parts = (self.learner, *self.adversaries.values())
        norms = [gradient_norm([parameter.grad for parameter in part.parameters()]) for part in parts]
        is_finite = bool(torch.stack(norms).isfinite().all())
        for i, optimizer in enumerate(optimizers):
            if not is_finite:
                optimizer.zero_grad()
            elif self.gradient_clip_val is not None:
                self.clip_gradients(unwrapped(optimizer), self.gradient_clip_val, "norm")
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
        """Keep the batch's numbers for the log, and show the guard what it watches."""
        notes = {name: value.detach() for name, value in (losses._asdict() | weights).items()}
        for name, one in found.items():
            notes |= {f"{name}_loss": one.loss.detach(), **one.notes}
        spreads = [images.detach().float().std(0).mean() for images in (shown.sample, shown.image)]
        notes["spread"] = spreads[0] / (spreads[1] + 1e-8)
        self.notes = notes
        watched = notes | {"loss": losses.bound.detach() + notes["discriminator_loss"]}
        means = averaged([watched[name] for name in WATCHED])  # all processes must come to the same conclusion
        self.guard.observe(**dict(zip(WATCHED, means, strict=True)))

    def watch(self, seen: int, *optimizers: AnyOptimizer, is_finite: bool) -> None:
        """Ask the guard if it is time: take a snapshot if all is well, else roll back to the last one.

        Args:
            seen: batches, with the present one.
            optimizers: all.
            is_finite: whether every gradient of the batch was finite; if not, that is a collapse at once.
        """
        looks = seen % self.guard.every == 0
        if not is_finite:
            self.roll_back(seen, self.guard.lost() or "a gradient is no number", *optimizers)
        elif seen > 2 * self.warmup and (looks or seen % (self.log_every_n_steps or seen) == 0):
            complaint = self.guard.look() if looks else self.guard.lost()
            well = looks and self.guard.well
            if complaint is None and well and not finite(self.learner, self.adversaries):
                complaint = "a weight is no number"
            if complaint is not None:
                self.roll_back(seen, complaint, *optimizers)
            elif well:
                self.snapshot.take(seen, optimizers)

    def roll_back(self, seen: int, complaint: str, *optimizers: AnyOptimizer) -> None:
        """Lower the adversarial weight and restore the last snapshot.

        Raises:
            DivergedError: if there is none yet, or it was restored too often.
        """
        if self.snapshot.state is None:
            super().refuse_nonfinite(math.nan, "a gradient")
        if self.guard.ncollapses >= self.guard.most:
            raise DivergedError(
                f"batch {seen}: {complaint}, after {self.guard.most} collapses before; the checkpoints keep what was"
                " validated last; try a smaller task.adversary_optimizer.lr, optimizer.lr or task.adversarial_ratio."
            )
        self.guard.lower()
        at = self.snapshot.restore(optimizers)
        line = "batch %d: %s; back to the weights of batch %d, with the adversarial weight lowered to %g of its own"
        log.warning(line, seen, complaint, at, float(self.guard.scale))

    def refuse_nonfinite(self, value: float, what: str) -> None:
        """Leave a training loss that is no number to the guard, once it watches."""
        if what != "the training loss" or self.global_step <= 2 * self.warmup:
            super().refuse_nonfinite(value, what)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store the snapshot too, so that a resumed run rolls back where it would have."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["snapshot"] = self.snapshot.state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the snapshot."""
        super().on_load_checkpoint(checkpoint)
        self.snapshot.state = checkpoint["snapshot"]


def unwrapped(optimizer: AnyOptimizer) -> Optimizer:
    """Return torch's own optimizer."""
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer

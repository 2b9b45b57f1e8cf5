"""`VAEGANTask`: training of a VAE with adversaries."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vae_lab.adversarial.adaptive_weight import adaptive_weight, gradient_norm
from vae_lab.adversarial.adversaries import AdversarialBatch, AdversaryLosses
from vae_lab.data.sample import Sample
from vae_lab.errors import require_count, require_number
from vae_lab.probability.objectives import Terms, elbo_terms
from vae_lab.probability.schedules import value_at
from vae_lab.training.distributed.collectives import synchronize_buffers
from vae_lab.training.distributed.gradients import assign_gradients, mean_of_groups, set_gradients, trainable
from vae_lab.training.schedules import make_schedule
from vae_lab.training.snapshot import AnyOptimizer
from vae_lab.training.tasks.adversarial import AdversarialTask, ModelLosses
from vae_lab.training.tasks.vaegan_settings import read_weight_bounds


class VAEGANTask(AdversarialTask):
    """Trains a VAE on the ELBO and on the losses of adversaries that receive its reconstructions and samples.

    With a discriminator, this is Larsen et al. 2016, https://arxiv.org/abs/1512.09300; with an additional classifier
    and mean feature matching, Bao et al. 2017, https://arxiv.org/abs/1703.10155. As in Larsen et al., all gradients
    come from one forward pass before any optimizer steps, and the adversarial loss does not train the encoder.

    The adversarial loss is weighted by `adaptive_weight`. For the first `warmup` batches only the adversaries train on
    it; over the next `warmup` batches the weights of the adversarial loss and of feature matching grow linearly.

    Args:
        optimizer: factory called with the model's named parameters.
        schedule: factory of a learning-rate schedule per step; see `make_schedule`. None keeps the learning rate.
        adversary_optimizer: factory called with the named parameters of each adversary.
        adversarial_ratio: norm of the adversarial gradient divided by the norm of the other gradients.
        weight_bounds: smallest and largest weight of the adversarial loss.
        warmup: batches in which only the adversaries train on the adversarial loss.
        samples: whether adversaries receive samples from the prior; otherwise they receive reconstructions twice.
        settings: see `AdversarialTask`. Larsen et al. use a distortion of weight 0, with feature matching instead.
    """

    def __init__(
        self,
        *,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler] | None,
        adversary_optimizer: Callable[..., Optimizer],
        adversarial_ratio: float,
        weight_bounds: object,
        warmup: int,
        samples: bool,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        require_count("task.warmup", warmup)
        require_number("task.adversarial_ratio", adversarial_ratio)
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.make_adversary_optimizer = adversary_optimizer
        self.adversarial_ratio = adversarial_ratio
        self.weight_bounds = read_weight_bounds(weight_bounds)
        self.warmup = warmup
        self.guarded_from = 2 * warmup
        self.samples = samples

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Return the optimizers of VAE and adversaries, and the learning-rate schedule of the VAE's optimizer."""
        self.objective.plan(self.total_steps)
        optimizer = self.make_optimizer(self.learner.named_parameters())
        others = [self.make_adversary_optimizer(one.named_parameters()) for one in self.adversaries.values()]
        if self.make_schedule is None:
            return [optimizer, *others], []
        return [optimizer, *others], [{"scheduler": make_schedule(self.make_schedule, optimizer, self.total_steps)}]

    def step(self, batch: Sample, step: int, *optimizers: AnyOptimizer) -> dict[str, Tensor]:
        """Take step number `step`, from 0, with every optimizer; return loss, distortion and rate of each image."""
        self.take_first_snapshot(batch, step, optimizers)
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
        return terms._asdict() | {"loss": terms.loss + (matching + losses.perceptual).detach()}

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
        assign_gradients(parameters, gradients)
        reference = [parameter.grad for parameter in decoder]
        weight = adaptive_weight(reference, adversarial, self.adversarial_ratio, self.weight_bounds)
        weight = weight * self.guard.scale * ramp
        ratio = weight * gradient_norm(adversarial) / (gradient_norm(reference) + 1e-8)
        for parameter, gradient in zip(decoder, adversarial, strict=True):
            if gradient is not None and parameter.grad is not None:
                parameter.grad += weight * gradient
        return {"adversarial_weight": weight, "gradient_ratio": ratio}

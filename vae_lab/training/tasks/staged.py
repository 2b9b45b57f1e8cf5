"""`StagedVAEGANTask`: a VAE-GAN whose decoder is trained first, its encoder second, and both third."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from vae_lab.adversarial.adversaries import AdversarialBatch, AdversaryLosses
from vae_lab.data.sample import Sample
from vae_lab.errors import require_count, require_number
from vae_lab.models.modes import evaluating
from vae_lab.models.vae import VAE
from vae_lab.probability.discrepancy import direction_mmd
from vae_lab.probability.latent_model import Inference
from vae_lab.probability.objectives import elbo_terms
from vae_lab.probability.schedules import value_at
from vae_lab.training.distributed.collectives import synchronize_buffers
from vae_lab.training.distributed.gradients import set_gradients
from vae_lab.training.snapshot import AnyOptimizer
from vae_lab.training.tasks.adversarial import AdversarialTask, ModelLosses

PRIOR_DRAWS = 256
"""Latents of the prior with which those of a batch are compared."""

NO_WARMUP = 10**9
"""Earlier updates of an EMA that starts from an average."""


class Stage(NamedTuple):
    """The settings of a stage.

    Attributes:
        steps: number of batches; None lasts until the end of training.
        lr: learning rate of the networks of the VAE that the stage trains.
        adversary_lr: learning rate of the adversaries.
        warmup: batches at the start of the stage in which only the adversaries train.
        distortion: factor of the task's weight of the distortion in the stage.
        decay: whether the learning rates fall to 0 along half a cosine period.
        mmd: weight of the discrepancy between the latents of a batch and the prior, beside nats; see `direction_mmd`.
    """

    steps: int | None
    lr: float
    adversary_lr: float = 0.0
    warmup: int = 0
    distortion: float = 1.0
    decay: bool = False
    mmd: float = 0.0


class StagedVAEGANTask(AdversarialTask):
    """Trains a VAE and adversaries in three stages.

    1. `decoder`: the decoder is the generator of a GAN, with samples from the prior alone.
    2. `encoder`: the encoder learns to invert the averaged decoder, which is frozen, on distortion and rate.
    3. `joint`: both networks train on distortion, rate and perceptual distance of reconstructions, and on the
       adversarial loss of samples from the prior and, if the adversary looks at them, of reconstructions.

    In the last two, `mmd` holds the latents of all images near the prior (InfoVAE, Zhao et al. 2019,
    https://arxiv.org/abs/1706.02262). Without it, they gather in a corner of latent space where no samples come from,
    because blurred images have the least distortion, and reconstructions are blurred.

    Posterior and prior are different inputs for a decoder; trained together from the start, reconstructions stay
    blurred for long and samples improve slowly. docs/paintings.md shows the figures.

    The checkpoint `best` is the best of the stage `joint`; before that stage, it is the last one.

    Args:
        optimizer: factory called with the decoder's named parameters.
        encoder_optimizer: factory called with the encoder's named parameters.
        adversary_optimizer: factory called with the named parameters of each adversary.
        stages: the settings of each stage, by name; see `Stage`.
        adversarial_weight: weight of the adversarial loss in the stage `joint`, beside nats.
        ema_halflife: images after which a weight has half of its share in the EMA.
        settings: see `AdversarialTask`.
    """

    def __init__(
        self,
        *,
        optimizer: Callable[..., Optimizer],
        encoder_optimizer: Callable[..., Optimizer],
        adversary_optimizer: Callable[..., Optimizer],
        stages: Mapping[str, Mapping[str, Any]],
        adversarial_weight: float,
        ema_halflife: float,
        **settings: Any,
    ) -> None:
        super().__init__(ema_decay=0.0, **settings)
        if not isinstance(self.model, VAE):
            raise ValueError(
                f"task=staged_vaegan trains a VAE with one latent vector, not {type(self.model).__name__}; choose"
                " model=fastgan."
            )
        require_number("task.adversarial_weight", adversarial_weight)
        require_number("task.ema_halflife", ema_halflife, "(0, inf)")
        self.stages = read_stages(stages)
        self.make_optimizer = optimizer
        self.make_encoder_optimizer = encoder_optimizer
        self.make_adversary_optimizer = adversary_optimizer
        self.adversarial_weight = adversarial_weight
        self.ema_halflife = ema_halflife

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimizers of the decoder, of the encoder and of each adversary."""
        self.objective.plan(self.total_steps)
        decoder = self.make_optimizer(self.learner.decoder.named_parameters())
        encoder = self.make_encoder_optimizer(self.learner.encoder.named_parameters())
        others = [self.make_adversary_optimizer(one.named_parameters()) for one in self.adversaries.values()]
        return [decoder, encoder, *others]

    @property
    def allows_cuda_graphs(self) -> bool:
        """No: only with the projected discriminator in graphs was it measured, and there losses changed."""
        return False

    @property
    def is_preliminary(self) -> bool:
        """Whether the model is still incomplete, because its encoder is untrained."""
        return self.stage_at(self.global_step)[0] != "joint"

    def judged_by(self) -> tuple[str, str]:
        """Return the distance of samples that a `SampleQuality` callback measures, if there is one; see `Task`."""
        measured = [name for name in self.trainer.callback_metrics if name.startswith("test/kid_")]
        if not measured:
            return super().judged_by()
        return measured[0].removeprefix("test/"), "KID x 1000 of samples against test images, about 0 for real ones"

    def stage_at(self, step: int) -> tuple[str, int]:
        """Return the name of the stage of step number `step`, and how many steps of the stage precede it."""
        for name, stage in self.stages.items():
            if stage.steps is None or step < stage.steps:
                return name, step
            step -= stage.steps
        return "joint", step

    def step(self, batch: Sample, step: int, *optimizers: AnyOptimizer) -> dict[str, Tensor]:
        """Take step number `step`, from 0, of its stage; return values to log by name, among them "loss"."""
        name, since = self.stage_at(step)
        stage = self.stages[name]
        if since == 0 and name != "decoder":
            self.learner.load_state_dict(self.model.state_dict())
            self.snapshot.state = None
        self.take_first_snapshot(batch, step, optimizers)
        self.set_learning_rates(name, since, optimizers)
        self.notes = {}
        if name == "encoder":
            numbers, is_finite = self.train_encoder(batch, step, optimizers)
        else:
            numbers, is_finite = self.train_against_adversaries(
                batch, step, optimizers, joint=name == "joint", warming=since < stage.warmup
            )
        self.ema.decay = 0.5 ** (len(batch.image) * self.trainer.world_size / self.ema_halflife)
        if since >= stage.warmup:
            self.ema.update(since if name != "joint" else NO_WARMUP)
        if name != "encoder":
            self.watch(step + 1, *optimizers, is_finite=is_finite)
        elif not is_finite:
            self.refuse_nonfinite(math.nan, "a gradient")
        return numbers

    def set_learning_rates(self, name: str, since: int, optimizers: tuple[AnyOptimizer, ...]) -> None:
        """Set the learning rate of every optimizer for a step of a stage; that of a frozen network is 0."""
        stage = self.stages[name]
        length = stage.steps or self.total_steps - sum(one.steps or 0 for one in self.stages.values())
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, since / max(1, length)))) if stage.decay else 1.0
        model = factor * stage.lr if since >= stage.warmup else 0.0
        rates = [model if name != "encoder" else 0.0, model if name != "decoder" else 0.0]
        for i, optimizer in enumerate(optimizers):
            for group in optimizer.param_groups:
                group["lr"] = rates[i] if i < len(rates) else factor * stage.adversary_lr

    def train_encoder(
        self, batch: Sample, step: int, optimizers: tuple[AnyOptimizer, ...]
    ) -> tuple[dict[str, Tensor], bool]:
        """Train the encoder on the frozen decoder; return values to log, and whether the gradients were finite."""
        with evaluating(self.learner.decoder):
            inference = self.learner.given(batch.label)(batch.image)
        numbers, loss = self.bound(inference, batch.image, step, self.stages["encoder"])
        set_gradients(list(self.learner.encoder.parameters()), loss)
        return numbers, self.step_optimizers(*optimizers)

    def train_against_adversaries(
        self, batch: Sample, step: int, optimizers: tuple[AnyOptimizer, ...], *, joint: bool, warming: bool
    ) -> tuple[dict[str, Tensor], bool]:
        """Train decoder and adversaries, and also the encoder if `joint`; return values to log, and as above.

        If `warming`, only the adversaries train, and nothing is differentiated with respect to images.
        """
        with torch.set_grad_enabled(not warming):
            shown, numbers, loss = self.decode_batch(batch, step, joint=joint)
        found: dict[str, AdversaryLosses] = {name: one(shown, step) for name, one in self.adversaries.items()}
        generator_loss = torch.stack([one.generator_loss for one in found.values()]).sum()
        weight = self.adversarial_weight * self.guard.scale if joint else 1.0
        loss = loss + weight * generator_loss
        if not warming:
            set_gradients(list((self.learner if joint else self.learner.decoder).parameters()), loss)
        for name, adversary in self.adversaries.items():
            set_gradients(list(adversary.parameters()), found[name].loss)
        is_finite = self.step_optimizers(*optimizers)
        synchronize_buffers(self.adversaries)
        bound = numbers.get("bound", generator_loss)
        zero = torch.zeros_like(generator_loss)
        losses = ModelLosses(bound, zero, numbers.get("perceptual", zero), generator_loss)
        self.note(shown, found, losses, {})
        return {**numbers, "loss": loss.detach()}, is_finite

    def decode_batch(
        self, batch: Sample, step: int, *, joint: bool
    ) -> tuple[AdversarialBatch, dict[str, Tensor], Float[Tensor, ""]]:
        """Return the images for the adversaries, values to log, and the model's losses but for the adversarial one.

        The decoder's batch contains latents of posterior and prior if `joint`, so that batch normalization treats them
        equally, and otherwise of the prior alone.
        """
        view: VAE = self.learner.given(batch.label)  # pyright: ignore[reportAssignmentType]
        prior = view.prior().sample((len(batch.image),))
        if not joint:
            generated = view.generative(prior).mean
            return AdversarialBatch(batch.image, generated, generated, batch.label), {}, batch.image.new_zeros(())
        posterior = view.posterior(batch.image)
        z = posterior.rsample()
        both = view.decode(torch.cat([z, prior])).split(len(prior))  # labels repeat
        generative, sample = view.likelihood(both[0]), view.likelihood(both[1])
        inference = Inference(posterior, z, generative, view.prior(posterior))
        numbers, bound = self.bound(inference, batch.image, step, self.stages["joint"])
        perceptual = self.perceptual(batch.image, generative.mean).mean()
        numbers["perceptual"] = perceptual.detach()
        shown = AdversarialBatch(batch.image, generative.mean, sample.mean, batch.label)
        return shown, numbers, bound + perceptual

    def bound(
        self, inference: Inference, image: Float[Tensor, "batch channels height width"], step: int, stage: Stage
    ) -> tuple[dict[str, Tensor], Float[Tensor, ""]]:
        """Return the values to log of reconstructions, and the weighted sum of distortion, rate and discrepancy."""
        terms = elbo_terms(inference, image)
        weight = self.distortion * stage.distortion
        bound = (weight * terms.distortion + value_at(self.beta, step) * terms.rate).mean()
        numbers = {"distortion": terms.distortion, "rate": terms.rate, "bound": bound}
        loss = bound
        if stage.mmd:
            numbers["mmd"] = direction_mmd(inference.z, inference.prior.sample((PRIOR_DRAWS,)))
            loss = bound + stage.mmd * numbers["mmd"]
        return {name: value.detach() for name, value in {**numbers, "loss": loss}.items()}, loss


def read_stages(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Stage]:
    """Return the settings of the three stages in their order.

    Raises:
        ValueError: if a stage is missing or unknown, or a setting is out of range.
    """
    names = ("decoder", "encoder", "joint")
    if set(stages) != set(names):
        raise ValueError(f"task.stages must have the stages {', '.join(names)}, not {', '.join(stages) or 'none'}.")
    found: dict[str, Stage] = {}
    for name in names:
        unknown = sorted(set(stages[name]) - set(Stage._fields))
        if unknown:
            raise ValueError(f"task.stages.{name}.{unknown[0]} is unknown; choose {', '.join(Stage._fields)}.")
        found[name] = stage = Stage(**stages[name])
        if name != "joint" or stage.steps is not None:
            require_count(f"task.stages.{name}.steps", stage.steps, 0)
        require_count(f"task.stages.{name}.warmup", stage.warmup, 0)
        require_number(f"task.stages.{name}.mmd", stage.mmd)
        require_number(f"task.stages.{name}.lr", stage.lr)
        require_number(f"task.stages.{name}.adversary_lr", stage.adversary_lr)
        require_number(f"task.stages.{name}.distortion", stage.distortion)
    return found

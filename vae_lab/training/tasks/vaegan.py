"""Training of a VAE against opponents: VAE-GAN, CVAE-GAN and autoencoders with a patch discriminator."""

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
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vae_lab.adversarial.adversaries import Opinion, Opponent, Round
from vae_lab.adversarial.collapse_guard import WATCHED, BalanceGuard
from vae_lab.data.sample import Batch, Sample
from vae_lab.errors import DivergedError, require_counts
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import ELBO, Objective, Terms, elbo_terms
from vae_lab.probability.schedules import value_at
from vae_lab.training.distributed.collectives import averaged, share_buffers
from vae_lab.training.distributed.gradients import averaged_alike, finite, norm, take, trainable
from vae_lab.training.schedules import make_schedule
from vae_lab.training.tasks.perceptual import Perceptual
from vae_lab.training.tasks.task import Task, listed
from vae_lab.training.tasks.vaegan_settings import opponent_optimizers, read_bounds, require_settings

log = logging.getLogger(__name__)

AnyOptimizer = Optimizer | LightningOptimizer


class Losses(NamedTuple):
    """What the model minimises in one batch, each a mean over images and none of them weighed but by its own opponent.

    Attributes:
        bound: distortion and rate.
        likeness: distances in opponents' features.
        perceptual: distance in a trained network's features.
        pull: to be taken for real; for the decoder alone.
    """

    bound: Tensor
    likeness: Tensor
    perceptual: Tensor
    pull: Tensor


class VAEGANTask(Task):
    """Fits a VAE to the ELBO and to what opponents see in its reconstructions and samples.

    With a discriminator that is Larsen et al. 2016, https://arxiv.org/abs/1512.09300; with a classifier beside it and
    mean feature matching, Bao et al. 2017, https://arxiv.org/abs/1703.10155. As in the former all gradients are taken
    at one pass and then every optimizer steps, and the encoder is not pulled: it has no part in samples.

    `model` is the moving average of the weights in training, which are `learner`. So what is validated, shown,
    generated from and loaded from a run folder is the average, and both are in the checkpoint.

    The pull on the decoder is scaled so that its gradient has `strength` times the norm of the rest (Esser et al. 2021,
    https://arxiv.org/abs/2012.09841, do it for the last layer), within `bounds`. Likeness and pull are off for `warmup`
    batches, in which the opponents learn to see, and grow for as many again.

    Args:
        model: the three distributions.
        objective: the ELBO, with or without a schedule of beta.
        optimizer: called with the model's named parameters.
        schedule: called with that optimizer, and with `total_steps` if it takes that, stepped after every step; None
            keeps the learning rate.
        opponents: by name.
        opponent_optimizer: called with the named parameters of each.
        perceptual: a distance between images and reconstructions that is not learned here.
        guard: watches the opponent called discriminator.
        distortion: weight of the distortion; Larsen et al. have 0, and likeness in its place.
        strength: norm of the pull's gradient, as a share of the rest's.
        bounds: least and largest weight of the pull.
        warmup: batches in which the opponents learn alone.
        samples: whether opponents see samples from the prior; else they see reconstructions twice.
        average_decay: of the average of the weights, per batch, once it has lasted.
        gradient_clip_val: norm to which the gradients of each optimizer are clipped; None leaves them.
        settings: see `Task`.
    """

    automatic_optimization = False  # pyright: ignore[reportAssignmentType]
    must_improve = False  # the ELBO is one of several things that are minimised

    def __init__(
        self,
        *,
        model: LatentModel,
        objective: Objective,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler] | None,
        opponents: dict[str, Opponent],
        opponent_optimizer: Callable[..., Optimizer],
        perceptual: Perceptual,
        guard: BalanceGuard,
        distortion: float,
        strength: float,
        bounds: object,
        warmup: int,
        samples: bool,
        average_decay: float,
        gradient_clip_val: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model=model, **settings)
        require_counts(task__warmup=warmup)
        if not isinstance(objective, ELBO):
            raise ValueError(
                f"objective={type(objective).__name__}: a VAE with opponents minimises the ELBO's terms; choose"
                " objective=elbo, elbo_warmup or elbo_cyclical."
            )
        require_settings(list(opponents), strength=strength, distortion=distortion, average_decay=average_decay)
        self.beta = objective.beta
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.learner = copy.deepcopy(self.model)
        self.model.requires_grad_(requires_grad=False)
        self.opponents = nn.ModuleDict(opponents).to(memory_format=torch.channels_last)
        self.make_opponent_optimizer = opponent_optimizer
        self.perceptual = perceptual
        self.guard = guard
        self.distortion = distortion
        self.strength = strength
        self.bounds = read_bounds(bounds)
        self.warmup = warmup
        self.samples = samples
        self.average_decay = average_decay
        self.gradient_clip_val = gradient_clip_val
        self.kept: dict[str, Any] | None = None
        self.notes: dict[str, Tensor] = {}

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        """Return an optimizer for the model and one for each opponent, and the schedule of the first."""
        optimizer = self.make_optimizer(self.learner.named_parameters())
        others = opponent_optimizers(self.make_opponent_optimizer, self.opponents.values())
        if self.make_schedule is None:
            return [optimizer, *others], []
        return [optimizer, *others], [{"scheduler": make_schedule(self.make_schedule, optimizer, self.total_steps)}]

    def trained_networks(self) -> list[nn.Module]:
        """Return the networks in training, those of the opponents included."""
        networks = [getattr(opponent, "network", None) for opponent in self.opponents.values()]
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
        if self.kept is None and step >= 2 * self.warmup:  # what to go back to is always warmed up
            if not finite(self.learner, self.opponents):
                super().refuse_nonfinite(math.nan, "a weight")
            self.kept = self.state(step, *optimizers)
        terms, shown = self.play(batch, step)
        opinions = {name: opponent(shown, step) for name, opponent in self.opponents.items()}
        losses = self.losses(terms, shown, opinions)
        ramp = min(max(step / self.warmup - 1, 0.0), 1.0)
        gained = self.pull_model(losses, ramp)
        for name, opponent in self.opponents.items():
            take(list(opponent.parameters()), opinions[name].own)
        sound = self.move(*optimizers)
        share_buffers(self.opponents)
        self.follow(step)
        self.note(shown, opinions, losses, gained)
        self.watch(step + 1, *optimizers, sound=sound)
        self.notes |= {"pull_scale": self.guard.scale.clone(), "ncollapses": self.guard.ncollapses.clone()}
        total = terms.loss + (self.liking(ramp) * losses.likeness + losses.perceptual).detach()
        return Terms(total, terms.distortion, terms.rate)

    def measure(self, batch: Sample) -> Float[Tensor, " batch"]:
        """Return the weighed ELBO of each image under the average of the weights, as at the end of the run."""
        inference = self.model.given(batch.label)(batch.image)
        return elbo_terms(inference, batch.image, value_at(self.beta, self.last_step)).loss

    def liking(self, ramp: float) -> float:
        """Return the weight of likeness: all of it from the start where nothing else asks for reconstructions."""
        return ramp if self.distortion else 1.0

    def move(self, *optimizers: AnyOptimizer) -> bool:
        """Step every optimizer, unless a gradient is no number, and return whether they did; no gradient is left.

        A step along one would leave weights that are no numbers beside a loss that still is one, for the guard to keep.
        The first optimizer, whose steps Lightning counts, steps in any case: without gradients it moves nothing.
        """
        parts = (self.learner, *self.opponents.values())
        norms = [norm([parameter.grad for parameter in part.parameters()]) for part in parts]
        sound = bool(torch.stack(norms).isfinite().all())
        for i, optimizer in enumerate(optimizers):
            if not sound:
                optimizer.zero_grad()
            elif self.gradient_clip_val is not None:
                self.clip_gradients(unwrapped(optimizer), self.gradient_clip_val, "norm")
            if sound or i == 0:
                optimizer.step()
            optimizer.zero_grad()
        return sound

    def play(self, batch: Sample, step: int) -> tuple[Terms, Round]:
        """Return the ELBO's terms, the loss with its weights, and what the opponents are shown."""
        view = self.learner.given(batch.label)
        inference = view(batch.image)
        terms = elbo_terms(inference, batch.image)
        loss = self.distortion * terms.distortion + value_at(self.beta, step) * terms.rate
        reconstruction = inference.generative.mean
        sample = reconstruction
        if self.samples:
            sample = view.generative(view.prior().sample((len(batch.image),))).mean
        return terms._replace(loss=loss), Round(batch.image, reconstruction, sample, batch.label)

    def losses(self, terms: Terms, shown: Round, opinions: dict[str, Opinion]) -> Losses:
        """Return what the model minimises."""
        return Losses(
            bound=terms.loss.mean(),
            likeness=torch.stack([opinion.likeness.mean() for opinion in opinions.values()]).sum(),
            perceptual=self.perceptual(shown.image, shown.reconstruction).mean(),
            pull=torch.stack([opinion.pull for opinion in opinions.values()]).sum(),
        )

    def pull_model(self, losses: Losses, ramp: float) -> dict[str, Tensor]:
        """Give the model both gradients; return the pull's weight, and its gradient's norm beside the rest's."""
        decoder = trainable(self.learner.decoder.parameters())
        pulls = torch.autograd.grad(losses.pull, decoder, retain_graph=True, allow_unused=True) if decoder else ()
        rest = losses.bound + self.liking(ramp) * losses.likeness + losses.perceptual
        parameters = trainable(self.learner.parameters())
        gradients = torch.autograd.grad(rest, parameters, retain_graph=True, allow_unused=True)
        pulls, gradients = averaged_alike(pulls, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        ours = norm([parameter.grad for parameter in decoder])
        theirs = norm(pulls)
        weight = (self.strength * ours / (theirs + 1e-8)).clamp(*self.bounds) * self.guard.scale * ramp
        for parameter, gradient in zip(decoder, pulls, strict=True):
            if gradient is not None and parameter.grad is not None:
                parameter.grad += weight * gradient
        return {"pull_weight": weight, "gradient_ratio": weight * theirs / (ours + 1e-8)}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average towards the weights in training; buffers are copied."""
        decay = min(self.average_decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(tuple(self.model.parameters()), tuple(self.learner.parameters()), None)
        for ours, theirs in zip(self.model.buffers(), self.learner.buffers(), strict=True):
            ours.copy_(theirs)

    def note(self, shown: Round, opinions: dict[str, Opinion], losses: Losses, gained: dict[str, Tensor]) -> None:
        """Keep the batch's numbers for the log, and show the guard what it watches."""
        notes = {name: value.detach() for name, value in (losses._asdict() | gained).items()}
        for name, opinion in opinions.items():
            notes |= {f"{name}_loss": opinion.own.detach(), **opinion.notes}
        spreads = [images.detach().float().std(0).mean() for images in (shown.sample, shown.image)]
        notes["spread"] = spreads[0] / (spreads[1] + 1e-8)
        self.notes = notes
        watched = notes | {"loss": losses.bound.detach() + notes["discriminator_loss"]}
        means = averaged([watched[name] for name in WATCHED])  # all processes must come to the same conclusion
        self.guard.observe(**dict(zip(WATCHED, means, strict=True)))

    def watch(self, seen: int, *optimizers: AnyOptimizer, sound: bool) -> None:
        """Let the guard look if it is time: keep the state if all is well, else go back to the one kept and say so.

        Args:
            seen: batches, with the one in hand.
            optimizers: all.
            sound: whether every gradient of the batch was finite; one that was not is a collapse at once.
        """
        looks = seen % self.guard.every == 0
        if not sound:
            self.go_back(seen, self.guard.lost() or "a gradient is no number", *optimizers)
        elif seen > 2 * self.warmup and (looks or seen % (self.log_every_n_steps or seen) == 0):
            complaint = self.guard.look() if looks else self.guard.lost()
            well = looks and self.guard.well
            if complaint is None and well and not finite(self.learner, self.opponents):
                complaint = "a weight is no number"
            if complaint is not None:
                self.go_back(seen, complaint, *optimizers)
            elif well:
                self.kept = self.state(seen, *optimizers)

    def go_back(self, seen: int, complaint: str, *optimizers: AnyOptimizer) -> None:
        """Lower the adversarial weight and return to the state kept.

        Raises:
            DivergedError: if there is none yet, or it was gone back to too often.
        """
        if self.kept is None:
            super().refuse_nonfinite(math.nan, "a gradient")
        assert self.kept is not None
        if self.guard.ncollapses >= self.guard.most:
            raise DivergedError(
                f"batch {seen}: {complaint}, after {self.guard.most} collapses before; the checkpoints keep what was"
                " validated last; try a smaller task.opponent_optimizer.lr, optimizer.lr or task.strength."
            )
        self.guard.lower()
        self.restore(self.kept, *optimizers)
        line = "batch %d: %s; back to the weights of batch %d, with the adversarial weight lowered to %g of its own"
        log.warning(line, seen, complaint, self.kept["batch"], float(self.guard.scale))

    def refuse_nonfinite(self, value: float, what: str) -> None:
        """Leave a training loss that is no number to the guard, once it watches."""
        if what != "the training loss" or self.global_step <= 2 * self.warmup:
            super().refuse_nonfinite(value, what)

    def state(self, step: int, *optimizers: AnyOptimizer) -> dict[str, Any]:
        """Return a copy of what training moves, but for counts and the guard's own."""
        modules = {"model": self.model, "learner": self.learner, "opponents": self.opponents}
        states = {name: copy.deepcopy(module.state_dict()) for name, module in modules.items()}
        return states | {
            "optimizers": [copy.deepcopy(optimizer.state_dict()["state"]) for optimizer in optimizers],
            "batch": step,
        }

    def restore(self, kept: dict[str, Any], *optimizers: AnyOptimizer) -> None:
        """Go back to a state; learning rates stay where their schedules are."""
        for name in ("model", "learner", "opponents"):
            getattr(self, name).load_state_dict(kept[name])
        for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer.state_dict() | {"state": copy.deepcopy(state)})

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store the state to go back to as well, so that a run that is resumed falls back where it would have."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["kept"] = self.kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the state to go back to."""
        super().on_load_checkpoint(checkpoint)
        self.kept = checkpoint["kept"]


def unwrapped(optimizer: AnyOptimizer) -> Optimizer:
    """Return torch's own optimizer."""
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer

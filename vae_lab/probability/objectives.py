"""Training objectives, per image and in nats."""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.errors import require_count, require_number
from vae_lab.probability.distributions import DiagonalNormal, kl
from vae_lab.probability.importance import draw
from vae_lab.probability.schedules import Schedule, value_at
from vae_lab.system.printing import PrintsCall

if TYPE_CHECKING:
    from vae_lab.data.sample import Sample
    from vae_lab.probability.latent_model import Inference, LatentModel


class Terms(NamedTuple):
    """Loss, distortion and rate of each image, in nats; distortion + rate is the negative ELBO for every objective.

    Attributes:
        loss: the minimised value.
        distortion: -log p(x | z) for z drawn from the posterior.
        rate: KL(q(z | x) || p(z)).
    """

    loss: Float[Tensor, " batch"]
    distortion: Float[Tensor, " batch"]
    rate: Float[Tensor, " batch"]


class Objective(PrintsCall, ABC):
    """Base class of training objectives, called with the model, the batch and the number of batches seen before.

    Attributes:
        is_bound: whether it is a bound on -log p(x), weighted or not; else the posterior's sigma is not trained.

    Example:
        >>> from vae_lab import load_data, load_model
        >>> from vae_lab.probability.objectives import ELBO
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> batch = next(iter(load_data("outputs/digits").val_dataloader()))
        >>> objective = ELBO(beta=1.0)
        >>> objective
        ELBO(beta=1.0)
        >>> terms = objective(model, batch, step=0)
        >>> terms.loss.equal(terms.distortion + terms.rate)
        True
    """

    is_bound = True

    @abstractmethod
    def __call__(self, model: "LatentModel", batch: "Sample", step: int) -> Terms:
        """Return the loss, distortion and rate of each image of the batch."""

    def plan(self, total_steps: int | float) -> None:
        """Pass the number of batches of the whole training to the schedules of loss weights, before the first batch.

        Raises:
            ValueError: if a schedule depends on the length and the length is infinite.
        """


def elbo_terms(inference: "Inference", image: Float[Tensor, "batch channels height width"], beta: float = 1.0) -> Terms:
    """Return distortion, rate and loss = distortion + beta * rate of each image, at one posterior sample.

    Kingma and Welling 2014, equation 3, https://arxiv.org/abs/1312.6114; beta as in Higgins et al. 2017.
    """
    distortion = -inference.generative.log_prob(image)
    rate = kl(inference.posterior, inference.prior, inference.z)
    return Terms(distortion + beta * rate, distortion, rate)


class ELBO(Objective):
    """The loss distortion + beta * rate, which is the negative ELBO at beta 1.

    Args:
        beta: a number, or a schedule.
    """

    def __init__(self, beta: float | Schedule) -> None:
        if not isinstance(beta, Schedule):
            require_number("objective.beta", beta)
        self.beta = beta

    def plan(self, total_steps: int | float) -> None:
        """Pass the number of batches of the whole training to the schedule of beta, if there is one."""
        if isinstance(self.beta, Schedule):
            self.beta.plan(total_steps)

    def __call__(self, model: "LatentModel", batch: "Sample", step: int) -> Terms:
        """Return the loss, distortion and rate of each image of the batch."""
        return elbo_terms(model(batch.image), batch.image, value_at(self.beta, step))


class FreeBits(Objective):
    """The negative ELBO with free bits: each latent contributes max(free_nats, mean KL over the batch) to the loss.

    Kingma et al. 2016, https://arxiv.org/abs/1606.04934, with groups of one latent. At 0 it is the negative ELBO.
    """

    def __init__(self, free_nats: float) -> None:
        require_number("objective.free_nats", free_nats)
        self.free_nats = free_nats

    def __call__(self, model: "LatentModel", batch: "Sample", step: int) -> Terms:
        """Return the loss, distortion and rate of each image of the batch.

        Raises:
            ValueError: if the prior does not treat latents independently.
        """
        q, z, generative, p = model(batch.image)
        if not (isinstance(q, DiagonalNormal) and isinstance(p, DiagonalNormal)):
            raise ValueError("objective=free_bits needs independent latents; choose prior=standard_normal.")
        distortion = -generative.log_prob(batch.image)
        rates = kl(q.each_latent(), p.each_latent(), z[..., None])
        # the mean over the batch is the paper's maximum, while each image keeps its own loss
        counted = torch.where(rates.mean(0) > self.free_nats, rates, torch.full_like(rates, self.free_nats))
        return Terms(distortion + counted.sum(1), distortion, rates.sum(1))


class IWAE(Objective):
    """The negative importance-weighted bound, -log 1/k sum w_i, with k = `nsamples` latents for each image.

    Burda, Grosse and Salakhutdinov 2016, https://arxiv.org/abs/1509.00519; see `importance`. Distortion and rate are
    those of the ELBO at the first latent, so that they are comparable across objectives.
    """

    def __init__(self, nsamples: int) -> None:
        require_count("objective.nsamples", nsamples)
        self.nsamples = nsamples

    def __call__(self, model: "LatentModel", batch: "Sample", step: int) -> Terms:
        """Return the loss, distortion and rate of each image of the batch."""
        draws = draw(model, model.posterior(batch.image), batch.image, self.nsamples)
        posterior, z, _, prior = draws.inference
        loss = self.minimised(z, draws.log_weights(self.log_posterior(posterior, z)))
        with torch.no_grad():
            rate = kl(posterior, prior, z).expand(z.shape[:-1])[0]
        return Terms(loss, -draws.log_likelihood[0], rate)

    def log_posterior(self, posterior: DiagonalNormal, z: Float[Tensor, "k batch nlatent"]) -> Float[Tensor, "k batch"]:
        """Return log q(z | x) of each draw."""
        return posterior.log_prob(z)

    def minimised(
        self, z: Float[Tensor, "k batch nlatent"], log_weights: Float[Tensor, "k batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each image, the negative importance-weighted bound."""
        return math.log(self.nsamples) - log_weights.logsumexp(0)


class DReG(IWAE):
    """The IWAE loss with the doubly reparametrized gradient, whose signal-to-noise ratio does not fall with k.

    With normalised weights v_i = w_i / sum w_j, IWAE's gradient is sum v_i d log w_i. The encoder's part of it equals
    in expectation sum v_i^2 (d log w_i / d z_i) (d z_i / d phi), without the derivative of log q with respect to its
    parameters: Tucker, Lawson, Gu and Maddison 2019, https://arxiv.org/abs/1810.04152. The code detaches the parameters
    of log q and multiplies the gradient at z_i, which holds v_i already, by v_i. The decoder's gradient keeps v_i.
    """

    def log_posterior(self, posterior: DiagonalNormal, z: Float[Tensor, "k batch nlatent"]) -> Float[Tensor, "k batch"]:
        """Return log q(z | x) of each draw, with gradients through z only.

        Raises:
            ValueError: if the posterior has the dimension of the draws, as a ladder's has: its parameters depend on
                latents drawn before, and detaching them would cut that gradient too.
        """
        if posterior.batch_shape == z.shape[:-1]:
            raise ValueError("objective=dreg needs a model with one vector of latents; choose objective=iwae.")
        return posterior.detached().log_prob(z)

    def minimised(
        self, z: Float[Tensor, "k batch nlatent"], log_weights: Float[Tensor, "k batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each image as in IWAE, with squared weights in the gradient through z."""
        if z.requires_grad:
            share = log_weights.detach().softmax(0)[..., None]
            z.register_hook(lambda gradient: share * gradient)
        return super().minimised(z, log_weights)


class RAEL2(Objective):
    """A regularized autoencoder: loss = distortion + latent_weight / 2 |z|^2 + decoder_weight |theta|^2.

    z is the posterior mean: Ghosh et al. 2020 (the L2 variant), https://arxiv.org/abs/1903.12436. The loss is not a
    bound on log p(x). The posterior's sigma is not trained, so the reported rate and posterior samples mean little.
    Generate from a density fitted to the latents: sampler=gmm.
    """

    is_bound = False

    def __init__(self, latent_weight: float, decoder_weight: float) -> None:
        require_number("objective.latent_weight", latent_weight)
        require_number("objective.decoder_weight", decoder_weight)
        self.latent_weight = latent_weight
        self.decoder_weight = decoder_weight

    def __call__(self, model: "LatentModel", batch: "Sample", step: int) -> Terms:
        """Return the loss, distortion and rate of each image of the batch; the loss does not include the rate."""
        posterior = model.posterior(batch.image)
        z = posterior.mean
        distortion = -model.generative(z).log_prob(batch.image)
        loss = distortion + self.latent_weight / 2 * z.square().sum(1)
        if self.decoder_weight:
            norms = [parameter.square().sum() for parameter in model.decoder.parameters()]
            loss = loss + self.decoder_weight * torch.stack(norms).sum()
        with torch.no_grad():
            rate = kl(posterior, model.prior(posterior), z)
        return Terms(loss, distortion, rate)


class Autoencoder(RAEL2):
    """A plain autoencoder, a baseline for regularized ones: the loss is the distortion at the posterior mean."""

    def __init__(self) -> None:
        super().__init__(latent_weight=0.0, decoder_weight=0.0)

"""Likelihood regret: how much a posterior optimised for one image improves its ELBO."""

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.detection.scores.anomaly import Score, common_noise
from vae_lab.errors import require_choice, require_count, require_number
from vae_lab.models.vae import VAE
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import elbo_terms
from vae_lab.probability.scores import Images, Nats
from vae_lab.system.devices import PRECISIONS, arithmetic


class LikelihoodRegret(Score):
    """What the ELBO gains, in nats, when an image's posterior mean and log sigma are fitted to it alone.

    Xiao, Yan and Amit 2020, https://arxiv.org/abs/2003.02977: the encoder does well on what it was trained on, so there
    is little to gain there. The decoder is held. Every image has numbers of its own, all in one tensor, and Adam
    treats entries independently, so a batch is fitted at once as each image would be alone.

    Each step has noise of its own, which all images share, and both bounds are measured on noise that no step saw: what
    is gained on the noise of the fit would be gained on nothing else. A regret can therefore come out a little below 0,
    and is left so: clamping would tie the most normal images. The learning rate falls to 0 in a straight line,
    and noise comes in pairs, e and -e, of which the part of the gradient that is odd in e cancels; what
    is measured on is scaled to variance 1, since a wider or narrower set would favour one sigma over another.

    The steps may run in bfloat16, in half the time: where a fit ends is of second order in what a step is off by. Both
    bounds are measured in single precision.

    Args:
        nsteps: of Adam.
        lr: Adam's learning rate at the start, in units of the prior's standard deviation.
        npairs: pairs of latents on which the gain is measured.
        seed: of the noise.
        precision: of the decoder in the steps: bf16-mixed, 32-true, or auto, the former where the processor has it.
    """

    def __init__(self, nsteps: int, lr: float, npairs: int, seed: int, precision: str) -> None:
        super().__init__()
        require_count("score.nsteps", nsteps)
        require_count("score.npairs", npairs)
        require_number("score.lr", lr, "(0, inf)")
        require_choice("score.precision", precision, PRECISIONS)
        self.nsteps = nsteps
        self.lr = lr
        self.npairs = npairs
        self.seed = seed
        self.precision = precision

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the model is a ladder: its lower groups' posteriors depend on the draws above them."""
        if not isinstance(model, VAE):
            raise ValueError("score=likelihood_regret fits one vector of latents for each image: use a plain VAE.")

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the regret of each image."""
        self.require(model)
        assert isinstance(model, VAE)
        noise = common_noise(model, images, self.nsteps + self.npairs, self.seed)
        with torch.no_grad():
            start = model.posterior(images)
        steps, held_out = noise.split([self.nsteps, self.npairs])
        fitted = self.fitted(model, start, images, steps)
        held_out = held_out / held_out.square().mean(0).sqrt()
        with torch.no_grad():
            before, after = (mean_neg_elbo(model, q, images, held_out) for q in (start, fitted))
        return before - after

    @torch.enable_grad()
    def fitted(
        self, model: VAE, start: DiagonalNormal, images: Images, noise: Float[Tensor, "nsteps 1 nlatent"]
    ) -> DiagonalNormal:
        """Return the posteriors that Adam reaches from `start`; the model's parameters get no gradient."""
        numbers = [start.loc.clone().requires_grad_(), start.log_sigma.clone().requires_grad_()]
        optimizer = torch.optim.Adam(numbers, lr=self.lr)
        for step, one in enumerate(noise):
            optimizer.param_groups[0]["lr"] = self.lr * (1 - step / len(noise))
            optimizer.zero_grad()
            with arithmetic(self.precision, images.device.type):
                loss = mean_neg_elbo(model, DiagonalNormal(*numbers), images, one[None]).sum()
            loss.backward(inputs=numbers)
            optimizer.step()
        return DiagonalNormal(*numbers).detached()


def mean_neg_elbo(
    model: VAE, posterior: DiagonalNormal, images: Images, noise: Float[Tensor, "npairs 1 nlatent"]
) -> Nats:
    """Return the negative ELBO of each image over the noise and its negative, its KL closed where it can be."""
    passes = (model.infer(posterior, noise=one) for one in torch.cat([noise, -noise]))
    return torch.stack([elbo_terms(inference, images).loss for inference in passes]).mean(0)

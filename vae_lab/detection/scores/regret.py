"""Likelihood regret: the increase of an image's ELBO when its posterior is optimised for that image alone."""

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.detection.scores.anomaly import Score
from vae_lab.errors import require_choice, require_count, require_number
from vae_lab.models.vae import VAE
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.importance import common_noise
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.objectives import elbo_terms
from vae_lab.probability.scores import Images, Nats
from vae_lab.system.devices import PRECISIONS, arithmetic


class LikelihoodRegret(Score):
    """The increase of an image's ELBO, in nats, when its posterior mean and log sigma are fitted to it alone.

    Xiao, Yan and Amit 2020, https://arxiv.org/abs/2003.02977: the encoder is nearly optimal for images like those it
    was trained on, so their regret is small. The decoder is fixed. Adam treats entries independently, so a batch is
    fitted as each image would be alone.

    Each step uses new noise, which all images share. Both bounds are measured on held-out noise, to exclude the gain on
    the noise of the fit. A regret can therefore be slightly negative; it is not clamped, which would tie the most
    normal images. The learning rate falls linearly to 0. Noise comes in pairs e and -e, which cancel the part of the
    gradient that is odd in e. The held-out noise is scaled to variance 1, because another variance would favour a
    smaller or larger sigma.

    The steps may run in bfloat16, in half the time: the result depends on errors of the steps to second order only.
    Both bounds are measured in float32.

    Args:
        nsteps: steps of Adam.
        lr: initial learning rate of Adam, in units of the prior's standard deviation.
        npairs: pairs of latents on which the gain is measured.
        seed: seed of the noise.
        precision: precision of the decoder in the steps: bf16-mixed, 32-true, or auto, which is bf16-mixed where the
            processor supports it.
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
        """Raise ValueError if the model is not a plain VAE with one posterior per image.

        In a ladder, the posteriors of lower groups depend on the latents above.
        """
        if not isinstance(model, VAE):
            raise ValueError("score=likelihood_regret fits one vector of latents for each image: use a plain VAE.")

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the likelihood regret of each image, in nats."""
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
        """Return the posteriors that Adam fits to the images, starting at `start`.

        The model's parameters get no gradient.
        """
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
    """Return the negative ELBO of each image, averaged over the noise samples and their negatives.

    The KL divergence is in closed form where one is known.
    """
    passes = (model.infer(posterior, noise=one) for one in torch.cat([noise, -noise]))
    return torch.stack([elbo_terms(inference, images).loss for inference in passes]).mean(0)

"""Anomaly scores computed with one model; a score depends on the model, the image and the seed alone.

All images share the same standard normal noise. So a score does not depend on the other images of the batch, and
differences between scores come from the images, not from the draws.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from vae_lab.errors import require_count
from vae_lab.models.ladder import Ladder
from vae_lab.models.topdown import Path, choose_from_noise
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.importance import common_noise, draw
from vae_lab.probability.latent_model import Inference, LatentModel
from vae_lab.probability.likelihoods import Gaussian
from vae_lab.probability.objectives import elbo_terms
from vae_lab.probability.scores import Estimate, Images, Nats, bits_per_dimension, importance_estimate
from vae_lab.system.printing import PrintsArguments

Batches = Iterable[Float[Tensor, "_ channels height width"]]
"""Batches of normal images, of any sizes."""
Noise = Float[Tensor, "nsamples 1 nlatent"]
Heat = Float[Tensor, "batch height width"]
"""How unusual each place of each image is; 0 for places that are not unusual."""


class Score(PrintsArguments, nn.Module, ABC):
    """Base class of anomaly scores, which map a model and images to one number per image; higher is more anomalous.

    The state fitted to normal images is in buffers, so that `state_dict` contains it.

    Example:
        >>> from vae_lab import load_data, load_model
        >>> from vae_lab.detection.scores.anomaly import NegELBO
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> batch = next(iter(load_data("outputs/digits").test_dataloader()))
        >>> score = NegELBO(nsamples=2, seed=0)
        >>> score
        NegELBO(nsamples=2, seed=0)
        >>> score(model, batch.image[:5]).shape
        torch.Size([5])
    """

    unit = "nats"

    @abstractmethod
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the score of each image, without gradients."""

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the score does not support this model; the base class supports every model."""

    def describe(self, model: LatentModel, images: Images) -> dict[str, Nats]:
        """Return the table columns by name: "score", and those that a subclass adds, with one value per image."""
        return {"score": self(model, images)}

    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Fit the score's state to batches of normal images; the base class has no state."""

    @torch.no_grad()
    def heat(self, model: LatentModel, images: Images) -> Heat:
        """Return how unusual each place is: the error of its reconstruction, unless a subclass knows better."""
        return pixel_errors(images, central_inference(model, images).generative.mean)


def central_inference(model: LatentModel, images: Images) -> Inference:
    """Return the latents at their posterior means, with q(z | x), p(x | z) and p(z).

    In a ladder, the posterior of a group is given the means of the groups above it.
    """
    return model.infer(model.posterior(images), noise=images.new_zeros(1, model.nlatent))


def squared_error(inference: Inference, images: Images) -> Nats:
    """Return the squared reconstruction error of each image, summed over pixels."""
    return (images - inference.generative.mean).square().sum((1, 2, 3))


def pixel_errors(images: Images, decoded: Images) -> Heat:
    """Return |image - decoded|, averaged over channels and blurred by a Gaussian of sigma 1 pixel.

    The blur suppresses pixel noise.
    """
    errors = (images - decoded).abs().mean(1, keepdim=True)
    reach = min(3, *(side - 1 for side in errors.shape[-2:]))  # the border is mirrored
    return gaussian_blur(errors, [2 * reach + 1] * 2, [1.0] * 2)[:, 0]


class ReconstructionError(Score):
    """The squared error of the reconstruction from the posterior mean, summed over pixels; not in nats."""

    unit = "squared error"

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the squared reconstruction error of each image."""
        return squared_error(central_inference(model, images), images)


class NegELBO(Score):
    """The negative evidence lower bound, -log p(x, z) + log q(z | x) averaged over `nsamples` latents.

    Both logarithms are evaluated at the draws, even where the KL has a closed form: their noise cancels if the
    posterior is exact (Roeder, Wu and Duvenaud 2017, https://arxiv.org/abs/1703.09194).
    """

    def __init__(self, nsamples: int, seed: int) -> None:
        super().__init__()
        require_count("score.nsamples", nsamples)
        self.nsamples = nsamples
        self.seed = seed

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images, noise: Noise | None = None) -> Nats:
        """Return the negative ELBO of each image, with the score's own noise unless `noise` is given.

        Latents are decoded one at a time to save memory.
        """
        posterior = model.posterior(images)
        total = images.new_zeros(images.shape[0])
        for part in (common_noise(model, images, self.nsamples, self.seed) if noise is None else noise).split(1):
            drawn = draw(model, posterior, images, 1, part)
            total = total - drawn.log_weights(drawn.inference.posterior.log_prob(drawn.inference.z))[0]
        return total / self.nsamples


class Rate(Score):
    """The rate KL(q(z | x) || p(z)): in closed form if there is one, else averaged over `nsamples` latents."""

    def __init__(self, nsamples: int, seed: int) -> None:
        super().__init__()
        require_count("score.nsamples", nsamples)
        self.nsamples = nsamples
        self.seed = seed

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images, noise: Noise | None = None) -> Nats:
        """Return the rate of each image, with the score's own noise unless `noise` is given."""
        posterior = model.posterior(images)
        noise = common_noise(model, images, self.nsamples, self.seed) if noise is None else noise
        passes = (model.infer(posterior, noise=part[0]) for part in noise.split(1))
        return torch.stack([elbo_terms(one, images).rate for one in passes]).mean(0)


class IwaeNLL(Score):
    """The importance-sampling estimate of -log p(x) with `nsamples` latents, at most `chunk` decoded at once."""

    def __init__(self, nsamples: int, chunk: int, seed: int) -> None:
        super().__init__()
        require_count("score.nsamples", nsamples)
        require_count("score.chunk", chunk)
        self.nsamples = nsamples
        self.seed = seed
        self.chunk = chunk

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the estimate of -log p(x) of each image."""
        return self.estimate(model, images).nll

    def describe(self, model: LatentModel, images: Images) -> dict[str, Nats]:
        """Return the estimate, standard error, effective sample size and, if x is discrete, bits per dimension."""
        found = self.estimate(model, images)
        described = {"score": found.nll, "standard_error": self.standard_error(found), "effective": found.effective}
        if model.likelihood.nlevels:
            described["bits_per_dimension"] = bits_per_dimension(found.nll, images[0].numel())
        return described

    def estimate(self, model: LatentModel, images: Images) -> Estimate:
        """Return the estimate of -log p(x) of each image, with its effective sample size."""
        noise = common_noise(model, images, self.nsamples, self.seed)
        return importance_estimate(model, images, self.nsamples, self.chunk, noise)

    def standard_error(self, estimate: Estimate) -> Nats:
        """Return the standard error of each estimate, in nats, by the delta method; NaN for one sample.

        With mean m and variance v of k weights, log m has the variance v / (k m^2) = 1 / effective - 1 / k. The error
        is too small if the effective sample size is small.
        """
        if self.nsamples == 1:
            return torch.full_like(estimate.nll, math.nan)
        return (1 / estimate.effective - 1 / self.nsamples).clamp(min=0).sqrt()


class Typicality(Score):
    """The absolute difference between an image's NLL and the mean NLL of normal images, in nats.

    Nalisnick et al. 2019, https://arxiv.org/abs/1906.02994, with batches of one: an image that is too likely is as
    atypical as one that is too unlikely.

    Args:
        nll: the score that estimates the negative log-likelihood.
    """

    centre: Float[Tensor, ""]

    def __init__(self, nll: Score) -> None:
        super().__init__()
        self.nll = nll
        self.register_buffer("centre", torch.tensor(math.nan))

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the score `nll` does not support the model."""
        self.nll.require(model)

    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Compute the mean NLL of normal images."""
        found = torch.cat([self.nll(model, images) for images in batches])
        self.centre = found.double().mean().to(found)

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the absolute difference between each image's NLL and the mean NLL."""
        require_fitted(self.centre, "typicality")
        return (self.nll(model, images) - self.centre.to(images)).abs()


def require_fitted(learned: Float[Tensor, "..."], name: str) -> None:
    """Raise ValueError if the state of a score is still NaN because the score was not fitted."""
    if learned.isnan().any():
        raise ValueError(f"score={name} compares with normal images: call fit, or load its state, before using it.")


class Complexity(Score):
    """The NLL of an image minus the length of the losslessly compressed image, both in nats.

    S = NLL - L: Serrà et al. 2020, https://arxiv.org/abs/1909.11480. Simple images are likely under nearly every model,
    so the compressed length serves as a reference. The NLL of a density differs from that of a probability by the
    constant D ln 255, which shifts all scores equally.

    Args:
        nll: the score to correct.
    """

    def __init__(self, nll: Score) -> None:
        super().__init__()
        self.nll = nll

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the likelihood has a fixed variance, which makes the scale of its nats arbitrary."""
        if isinstance(model.likelihood, Gaussian):
            raise ValueError(
                "score=complexity compares nats with a compressed length, and a fixed variance gives nats an arbitrary"
                " scale: train with a likelihood that learns its scale, such as sigma_vae, or choose another score."
            )
        self.nll.require(model)

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the NLL minus the compressed length of each image, in nats."""
        return self.nll(model, images) - compressed_nats(images)


def compressed_nats(images: Images) -> Nats:
    """Return the length in nats of each image, compressed losslessly as 8-bit pixels."""
    pixels = (images * 255).round().clamp(0, 255).to("cpu", torch.uint8)
    lengths = [compressed_bytes(image) for image in pixels]
    return images.new_tensor(lengths) * (8 * math.log(2))


def compressed_bytes(image: UInt8[Tensor, "channels height width"]) -> int:
    """Return the length in bytes of the shortest of four deflate streams: of the pixels and of three PNG residuals.

    PNG chooses a filter for each row: https://www.w3.org/TR/png-3/#9Filter-types. The constant header is left out.
    """
    left = torch.nn.functional.pad(image, (1, 0))[..., :-1]
    up = torch.nn.functional.pad(image, (0, 0, 1, 0))[:, :-1]
    mean = ((left.int() + up.int()) // 2).to(torch.uint8)
    return min(deflated(part) for part in (image, image - left, image - up, image - mean))


def deflated(pixels: UInt8[Tensor, "channels height width"]) -> int:
    """Return the number of bytes of pixels compressed by raw deflate, with channels interleaved as in PNG."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    interleaved = pixels.permute(1, 2, 0).contiguous().numpy().tobytes()
    return len(stream.compress(interleaved)) + len(stream.flush())


class LadderLLR(Score):
    """The decrease of a ladder VAE's ELBO if its lowest `k` latent groups are drawn from the prior, LLR^{>k}.

    Havtorn et al. 2021, https://arxiv.org/abs/2102.08248. Let z_u be the upper groups and z_l the lowest k. Then
    r(z | x) = p(z_l | z_u) q(z_u | x) is a posterior with the bound L^{>k} = E_r[log p(x | z) + log p(z_u) -
    log q(z_u | x)]. The score L - L^{>k} equals KL(r || p(z | x)) - KL(q || p(z | x)), which is large if the upper
    groups do not determine the image. Both bounds use the same noise, so the score is 0 at k = 0.
    """

    def __init__(self, k: int, nsamples: int, seed: int) -> None:
        super().__init__()
        if k < 0:
            raise ValueError(f"score.k counts a ladder's lowest groups and is at least 0, not {k}.")
        require_count("score.nsamples", nsamples)
        self.k = k
        self.nsamples = nsamples
        self.seed = seed

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the model is not a ladder with more than `k` groups of latents."""
        if not isinstance(model, Ladder):
            raise ValueError("score=ladder_llr compares groups of latents, but this model has one group: use a ladder.")
        if self.k >= len(model.decoder.sizes):
            raise ValueError(f"score.k must be less than the {len(model.decoder.sizes)} groups, not {self.k}.")

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the ELBO L minus the bound L^{>k} of each image, averaged over `nsamples` latents."""
        self.require(model)
        assert isinstance(model, Ladder)
        total = images.new_zeros(len(images))
        posterior = model.posterior(images)
        for noise in common_noise(model, images, self.nsamples, self.seed):
            for k, sign in ((0, 1), (self.k, -1)):
                choose = choose_from_noise(noise.expand(len(images), -1), model.decoder.sizes, k)
                total = total + sign * upper_bound_terms(model, posterior.path(choose, ()), images, k)
        return total / self.nsamples


def upper_bound_terms(model: Ladder, path: Path, images: Images, k: int) -> Nats:
    """Return log p(x | z) + log p(z_u) - log q(z_u | x), where z_u are the groups above the lowest `k`."""
    assert path.posterior is not None
    n = sum(model.decoder.sizes[: len(model.decoder.sizes) - k])
    p, q = (DiagonalNormal(d.loc[:, :n], d.log_sigma[:, :n]) for d in (path.prior, path.posterior))
    z = path.z[:, :n]
    return model.likelihood(path.output).log_prob(images) + p.log_prob(z) - q.log_prob(z)

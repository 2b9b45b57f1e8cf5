"""Anomaly scores of one model; each is a function of the image and a seed alone.

All images share one set of standard normal noise, so a score depends neither on the images beside it nor on their order
or number, and two images differ in their scores by what they are and not by the luck of a draw.
"""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vae_lab.errors import require_count
from vae_lab.models.ladder import Ladder
from vae_lab.models.topdown import Path, choose_from_noise
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.importance import draw
from vae_lab.probability.latent_model import Inference, LatentModel
from vae_lab.probability.likelihoods import Gaussian
from vae_lab.probability.objectives import elbo_terms
from vae_lab.probability.scores import Estimate, Images, Nats, bits_per_dimension, importance_estimate
from vae_lab.system.printing import PrintsArguments
from vae_lab.system.randomness import counter_seed

Batches = Iterable[Float[Tensor, "_ channels height width"]]
"""Normal images, some at a time: of any number, so that their sizes are not held to agree."""


class Score(PrintsArguments, nn.Module, ABC):
    """The role: called with a model in evaluation mode and images, returns a number for each, higher is stranger.

    What is learned of normal images are buffers, so that `state_dict` keeps it.

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

    @abstractmethod
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the score of each image, without a gradient."""

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the score is not for this kind of model; most are for all."""

    def describe(self, model: LatentModel, images: Images) -> dict[str, Nats]:
        """Return the score of each image as "score", and what else there is to say of it."""
        return {"score": self(model, images)}

    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Learn from batches of normal images what the score needs of them; most need nothing."""


def common_noise(model: LatentModel, images: Images, nsamples: int, seed: int) -> Float[Tensor, "nsamples 1 nlatent"]:
    """Return the standard normal numbers that all images share: the same on every device, from the seed alone."""
    generator = torch.Generator().manual_seed(counter_seed("score", seed))
    return torch.randn(nsamples, 1, model.nlatent, generator=generator).to(images)


def central_inference(model: LatentModel, images: Images) -> Inference:
    """Return one pass without noise: each latent at its posterior's mean, given those above it."""
    return model.infer(model.posterior(images), noise=images.new_zeros(1, model.nlatent))


def squared_error(inference: Inference, images: Images) -> Nats:
    """Return the squared error of each image's reconstruction, summed over pixels."""
    return (images - inference.generative.mean).square().sum((1, 2, 3))


class ReconstructionError(Score):
    """The squared error of the posterior mean's decoding, summed over pixels; it is not in nats."""

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the error of each image."""
        return squared_error(central_inference(model, images), images)


class NegELBO(Score):
    """The negative evidence lower bound, -log p(x, z) + log q(z | x) averaged over `nsamples` latents.

    Both logarithms are taken at the draw, although the KL may have a closed form: their noise cancels where the
    posterior is good, entirely where it is exact (Roeder, Wu and Duvenaud 2017, https://arxiv.org/abs/1703.09194).
    """

    def __init__(self, nsamples: int, seed: int) -> None:
        super().__init__()
        require_count("score.nsamples", nsamples)
        self.nsamples = nsamples
        self.seed = seed

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the mean over latents, each decoded in turn to hold one at a time."""
        posterior = model.posterior(images)
        total = images.new_zeros(len(images))
        for noise in common_noise(model, images, self.nsamples, self.seed).split(1):
            drawn = draw(model, posterior, images, 1, noise)
            total = total - drawn.log_weights(drawn.inference.posterior.log_prob(drawn.inference.z))[0]
        return total / self.nsamples


class Rate(Score):
    """KL(q(z | x) || p(z)), averaged over `nsamples` latents where it has no closed form."""

    def __init__(self, nsamples: int, seed: int) -> None:
        super().__init__()
        require_count("score.nsamples", nsamples)
        self.nsamples = nsamples
        self.seed = seed

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the rate of each image."""
        posterior = model.posterior(images)
        passes = (
            model.infer(posterior, noise=noise[0])
            for noise in common_noise(model, images, self.nsamples, self.seed).split(1)
        )
        return torch.stack([elbo_terms(one, images).rate for one in passes]).mean(0)


class IwaeNLL(Score):
    """The importance-sampling estimate of -log p(x) at `nsamples` latents, at most `chunk` decoded at once."""

    def __init__(self, nsamples: int, chunk: int, seed: int) -> None:
        super().__init__()
        require_count("score.nsamples", nsamples)
        require_count("score.chunk", chunk)
        self.nsamples = nsamples
        self.seed = seed
        self.chunk = chunk

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the estimate of each image."""
        return self.estimate(model, images).nll

    def describe(self, model: LatentModel, images: Images) -> dict[str, Nats]:
        """Return the estimate with its standard error, its effective sample size and, of a probability, its bits."""
        found = self.estimate(model, images)
        described = {"score": found.nll, "standard_error": self.standard_error(found), "effective": found.effective}
        if model.likelihood.nlevels:
            described["bits_per_dimension"] = bits_per_dimension(found.nll, images[0].numel())
        return described

    def estimate(self, model: LatentModel, images: Images) -> Estimate:
        """Return the estimate of each image with its effective sample size."""
        noise = common_noise(model, images, self.nsamples, self.seed)
        return importance_estimate(model, images, self.nsamples, self.chunk, noise)

    def standard_error(self, estimate: Estimate) -> Nats:
        """Return the standard error of each estimate, in nats, by the delta method; too small where few draws count.

        With mean weight m and variance v of k weights, log m has the variance v / (k m^2) = 1 / effective - 1 / k. Of
        one weight nothing can be said: NaN.
        """
        if self.nsamples == 1:
            return torch.full_like(estimate.nll, math.nan)
        return (1 / estimate.effective - 1 / self.nsamples).clamp(min=0).sqrt()


class Typicality(Score):
    """How far an image's negative log-likelihood lies from normal images' mean, on either side, in nats.

    Nalisnick et al. 2019, https://arxiv.org/abs/1906.02994, with batches of one: an image that is too likely is no more
    typical than one that is too unlikely.

    Args:
        nll: the score whose mean over normal images is taken.
    """

    centre: Float[Tensor, ""]

    def __init__(self, nll: Score) -> None:
        super().__init__()
        self.nll = nll
        self.register_buffer("centre", torch.tensor(math.nan))

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the score whose mean is taken is not for the model."""
        self.nll.require(model)

    def fit(self, model: LatentModel, batches: Batches) -> None:
        """Learn the mean over normal images."""
        found = torch.cat([self.nll(model, images) for images in batches])
        self.centre = found.double().mean().to(found)

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the distance of each image from the mean."""
        require_fitted(self.centre, "typicality")
        return (self.nll(model, images) - self.centre.to(images)).abs()


def require_fitted(learned: Float[Tensor, "..."], name: str) -> None:
    """Raise ValueError if a score is still what it was at the start, NaN."""
    if learned.isnan().any():
        raise ValueError(f"score={name} compares with normal images: call fit, or load its state, before it is used.")


class Complexity(Score):
    """A negative log-likelihood less the nats that a lossless compressor needs for the image.

    S = NLL - L: Serrà et al. 2020, https://arxiv.org/abs/1909.11480. Simple images are likely under nearly every model;
    what counts is how much likelier this one makes them. A density's NLL differs from a probability's by a
    constant, D ln 255, which moves all images alike.

    Args:
        nll: the score to correct.
    """

    def __init__(self, nll: Score) -> None:
        super().__init__()
        self.nll = nll

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the model's nats have no scale of their own, from which a compressor's could be taken."""
        if isinstance(model.likelihood, Gaussian):
            raise ValueError(
                "score=complexity compares nats with a compressor's, and a fixed variance makes them of any size: train"
                " with a likelihood that learns its scale, such as sigma_vae, or choose another score."
            )
        self.nll.require(model)

    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return the corrected score of each image."""
        return self.nll(model, images) - compressed_nats(images)


def compressed_nats(images: Images) -> Nats:
    """Return the length of each image when it is compressed without loss, as 8-bit pixels, in nats."""
    pixels = (images * 255).round().clamp(0, 255).to("cpu", torch.uint8)
    lengths = [compressed_bytes(image) for image in pixels]
    return images.new_tensor(lengths) * (8 * math.log(2))


def compressed_bytes(image: UInt8[Tensor, "channels height width"]) -> int:
    """Return the bytes of the shortest of four raw deflate streams: of the pixels, or of what one PNG filter leaves.

    PNG does the same row by row: https://www.w3.org/TR/png-3/#9Filter-types. Its header is left out, a constant.
    """
    left = torch.nn.functional.pad(image, (1, 0))[..., :-1]
    up = torch.nn.functional.pad(image, (0, 0, 1, 0))[:, :-1]
    mean = ((left.int() + up.int()) // 2).to(torch.uint8)
    return min(deflated(part) for part in (image, image - left, image - up, image - mean))


def deflated(pixels: UInt8[Tensor, "channels height width"]) -> int:
    """Return the bytes of a raw deflate stream, channels interleaved as in PNG."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    interleaved = pixels.permute(1, 2, 0).contiguous().numpy().tobytes()
    return len(stream.compress(interleaved)) + len(stream.flush())


class LadderLLR(Score):
    """How much a ladder's bound loses when its lowest `k` groups must come from the prior, LLR^{>k}.

    With z_u the upper groups and z_l the lowest k, r(z | x) = p(z_l | z_u) q(z_u | x) is a posterior too, and its bound
    L^{>k} = E_r[log p(x | z) + log p(z_u) - log q(z_u | x)] keeps only the upper groups' terms. The score L - L^{>k}
    is KL(r || p(z | x)) - KL(q || p(z | x)): large where the upper groups don't tell what the image looks like.
    Havtorn et al. 2021, https://arxiv.org/abs/2102.08248. Both bounds take the same noise, so their upper groups are
    the same, and at k = 0 the score is 0.
    """

    def __init__(self, k: int, nsamples: int, seed: int) -> None:
        super().__init__()
        if k < 0:
            raise ValueError(f"score.k counts a ladder's lowest groups and is at least 0, not {k}.")
        self.k = k
        require_count("score.nsamples", nsamples)
        self.nsamples = nsamples
        self.seed = seed

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the model is no ladder, or has no group above the lowest k."""
        if not isinstance(model, Ladder):
            raise ValueError("score=ladder_llr compares groups of latents, of which this model has one: use a ladder.")
        if self.k >= len(model.decoder.sizes):
            raise ValueError(f"score.k must be less than the {len(model.decoder.sizes)} groups, not {self.k}.")

    @torch.no_grad()
    def forward(self, model: LatentModel, images: Images) -> Nats:
        """Return L - L^{>k} of each image, averaged over latents."""
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
    """Return log p(x | z) + log p(z_u) - log q(z_u | x), z_u being all groups but the lowest `k`."""
    assert path.posterior is not None
    n = sum(model.decoder.sizes[: len(model.decoder.sizes) - k])
    p, q = (DiagonalNormal(d.loc[:, :n], d.log_sigma[:, :n]) for d in (path.prior, path.posterior))
    z = path.z[:, :n]
    return model.likelihood(path.output).log_prob(images) + p.log_prob(z) - q.log_prob(z)

"""The parts of a model that are exported: encoder, decoder and anomaly score, as functions of tensors.

    encoder   image [B, C, H, W]          -> mean [B, n], log_sigma [B, n]
    decoder   z [B, n]                    -> image [B, C, H, W], the mean of p(x | z)
    score     image [B, C, H, W]          -> score [B]

A part of a conditional model also takes `label` [B], the class of each image.
"""

import copy
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vae_lab.detection.scores.anomaly import NegELBO, Rate, ReconstructionError, central_inference
from vae_lab.models.ladder import Ladder
from vae_lab.models.topdown import choose_from_noise
from vae_lab.probability.importance import common_noise
from vae_lab.probability.latent_model import LatentModel
from vae_lab.system.randomness import seeded

NINPUTS = 100
"""Number of inputs on which an exported part is compared with the model."""

ExportedScore = NegELBO | Rate | ReconstructionError
"""Scores that are functions of the image alone; all others search, sample much or compare with normal images."""

Images = Float[Tensor, "batch channels height width"]
Labels = Int64[Tensor, " batch"]
Latents = Float[Tensor, "batch nlatent"]


class ImageEncoder(nn.Module):
    """The posterior of each image: its means and log sigmas; in a ladder, each group's given the means above it."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Images, label: Labels | None = None) -> tuple[Latents, Latents]:
        """Return the means and log sigmas of q(z | x)."""
        posterior = central_inference(conditioned(self.model, label), image).posterior
        return posterior.mean, posterior.log_sigma


class LatentDecoder(nn.Module):
    """The mean image of each latent vector."""

    def __init__(self, model: LatentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Latents, label: Labels | None = None) -> Images:
        """Return the mean of p(x | z)."""
        return conditioned(self.model, label).generative(z).mean


class LadderPrior(nn.Module):
    """Latents drawn from the prior of a ladder, as a function of standard normal noise."""

    def __init__(self, model: Ladder) -> None:
        super().__init__()
        self.model = model

    def forward(self, noise: Latents) -> Latents:
        """Return mean + sigma * noise of each group, given the groups above."""
        decoder = self.model.decoder
        return decoder(None, choose_from_noise(noise, decoder.sizes), noise.shape[0]).z


class ImageScore(nn.Module):
    """The anomaly score of each image; the noise that all images share is a constant of the graph."""

    noise: Tensor | None

    def __init__(self, model: LatentModel, score: ExportedScore, image: Images) -> None:
        super().__init__()
        self.model = model
        self.score = score
        noise = None
        if not isinstance(score, ReconstructionError):
            noise = common_noise(model, image, score.nsamples, score.seed)
        self.register_buffer("noise", noise)

    def forward(self, image: Images, label: Labels | None = None) -> Float[Tensor, " batch"]:
        """Return the score of each image, as `python -m vae_lab.detect` computes it."""
        model = conditioned(self.model, label)
        if isinstance(self.score, ReconstructionError):
            return self.score(model, image)
        return self.score(model, image, self.noise)


def conditioned(model: LatentModel, label: Labels | None) -> LatentModel:
    """Return the model conditioned on labels, or the model itself without labels."""
    return model if label is None else model.given(label)


class Part(NamedTuple):
    """A part of a model, with the names and examples of its inputs, and the names of its outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the model itself."""
        found = self.module(*inputs)
        return found if isinstance(found, tuple) else (found,)


def parts_of(model: LatentModel, score: ExportedScore | None) -> list[Part]:
    """Return the parts of a model, with 100 inputs each that depend on nothing but the model.

    Half of the images are decoded from latents of the prior, half are uniform noise; no image of a data set is used.
    The model is copied, in evaluation mode and with contiguous weights, as torch.export stores them.
    """
    model = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    with seeded("export"), torch.no_grad():
        z = model.prior().sample((NINPUTS,)).to(next(model.parameters()))
        label = {"label": torch.arange(NINPUTS) % model.nclasses} if model.nclasses else {}
        image = LatentDecoder(model)(z, **label)
        image[::2] = torch.rand_like(image[::2])
    if model.likelihood.nlevels == 2:
        image = image.round()
    parts = [
        Part("encoder", ImageEncoder(model), {"image": image, **label}, ("mean", "log_sigma")),
        Part("decoder", LatentDecoder(model), {"z": z, **label}, ("image",)),
    ]
    if score is not None:
        parts.append(Part("score", ImageScore(model, score, image), {"image": image, **label}, ("score",)))
    return parts

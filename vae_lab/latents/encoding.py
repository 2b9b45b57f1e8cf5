"""Posteriors of pictures, and what follows from one pass through a model: means, reconstructions and likelihoods."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vae_lab.data.pictures import Pictures, Pixels, model_input, read_pictures
from vae_lab.errors import require_count
from vae_lab.models.modes import evaluating
from vae_lab.models.vae import VAE
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.importance import common_noise
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.scores import importance_estimate
from vae_lab.runs.inference import batch_size

Labels = int | Sequence[int] | Tensor
"""A class number for all images, or one for each."""
Images = Float[Tensor, "n channels height width"]


class Posteriors(NamedTuple):
    """The means and log sigmas of the posteriors of images; in a ladder, of each group given the means above it."""

    means: Float[Tensor, "n nlatent"]
    log_sigmas: Float[Tensor, "n nlatent"]


def encode_images(
    model: LatentModel, images: Pictures, *, label: Labels | None = None, layout: str | None = None
) -> Float[Tensor, "n nlatent"]:
    """Return the posterior means of images, [n, nlatent], on the CPU and without gradients.

    In a ladder, the latents are those of all groups, from the top down, each group given the means of those above.

    Args:
        model: the encoder, used in evaluation mode on its device and in its precision; its mode is restored.
        images: PIL images, paths, arrays or tensors, or a `Sample`; see `vae_lab.data.pictures`.
        label: for a conditional model, the class number of all images or of each; None takes those of a `Sample`.
        layout: the axes of arrays and tensors, such as "HWC"; None recognises them.

    Raises:
        DataError: if a file is not a usable image.
        ValueError: if an array is not one of images, or a conditional model gets no labels.

    Example:
        >>> from vae_lab import encode_images, load_data, load_model
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> encode_images(model, load_data("outputs/digits").splits.test[:5]).shape
        torch.Size([5, 40])
    """
    with torch.no_grad(), evaluating(model):
        parts = batches_of(model, read_pictures(images, model, layout), label)
        return _joined([one.posterior(part).mean.cpu() for one, part in parts], (0, model.nlatent))


def reconstruct_images(
    model: LatentModel, images: Pictures, *, label: Labels | None = None, layout: str | None = None
) -> Images:
    """Return the reconstructions of images from their posterior means, on the CPU and without gradients.

    The arguments and errors are those of `encode_images`. Pixels are means of p(x | z).

    Example:
        >>> from vae_lab import load_data, load_model, reconstruct_images
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> reconstruct_images(model, load_data("outputs/digits").splits.test[0]).shape
        torch.Size([1, 1, 28, 28])
    """
    with torch.no_grad(), evaluating(model):
        parts = batches_of(model, read_pictures(images, model, layout), label)
        decoded = [one.generative(one.posterior(part).mean).mean.cpu() for one, part in parts]
        return _joined(decoded, (0, model.channels, model.image_size, model.image_size))


def log_likelihood(
    model: LatentModel,
    images: Pictures,
    *,
    nsamples: int = 200,
    seed: int = 0,
    label: Labels | None = None,
    layout: str | None = None,
) -> Float[Tensor, " n"]:
    """Return an estimate of log p(x) of images in nats, on the CPU and without gradients.

    It is the importance-sampling estimate of Burda, Grosse and Salakhutdinov 2016, https://arxiv.org/abs/1509.00519, in
    expectation a lower bound that is tighter for more samples. All images share the noise, so the estimate of an image
    does not depend on the others. It is the negative of the score `iwae_nll`. See `encode_images` for the other
    arguments and the errors.

    Args:
        model: the model.
        images: see `encode_images`.
        nsamples: latents drawn for each image.
        seed: of the draws.
        label: see `encode_images`.
        layout: see `encode_images`.

    Example:
        >>> from vae_lab import load_data, load_model, log_likelihood
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> log_likelihood(model, load_data("outputs/digits").splits.test[:5], nsamples=10).shape
        torch.Size([5])
    """
    require_count("nsamples", nsamples)
    estimates = []
    with torch.no_grad(), evaluating(model):
        for one, part in batches_of(model, read_pictures(images, model, layout), label):
            noise = common_noise(one, part, nsamples, seed)
            estimates.append(-importance_estimate(one, part, nsamples, batch_size(model), noise).nll.cpu())
    return _joined(estimates, (0,))


def posteriors_of(model: LatentModel, images: Images) -> Posteriors:
    """Return the means and log sigmas of the posteriors of a batch, on its device."""
    posterior = model.posterior(images)
    if not isinstance(posterior, DiagonalNormal):  # of a ladder: one top-down pass through the means
        posterior = model.infer(posterior, noise=images.new_zeros(1, model.nlatent)).posterior
    return Posteriors(posterior.mean, posterior.log_sigma)


def batches_of(model: LatentModel, read: Pixels, label: Labels | None = None) -> Iterator[tuple[LatentModel, Images]]:
    """Yield (model conditioned on the labels, images on the model's device in its precision) for each batch.

    Args:
        model: the model, possibly conditioned on a label per image.
        read: the pixels, with labels that are used if there are no others.
        label: class numbers; see `encode_images`.
    """
    labels, weight = labels_of(model, read, label), next(model.parameters())
    size = min(256, batch_size(model))
    for rows in (slice(start, start + size) for start in range(0, len(read.pixels), size)):
        part = model_input(read.pixels[rows], model).to(weight)
        yield model if labels is None else model.given(labels[rows].to(weight.device)), part


def labels_of(model: LatentModel, read: Pixels, label: Labels | None) -> Int64[Tensor, " n"] | None:
    """Return the class of each image: `label`, else those that the model is conditioned on, else the images' own.

    None stands for an unconditional model.

    Raises:
        ValueError: if a conditional model gets no labels, or another number of labels than images.
    """
    if not model.nclasses:
        if label is not None:
            raise ValueError(f"label={label}: the model is unconditional; leave label out.")
        return None
    if label is None and isinstance(model, VAE) and model.classes is not None:
        return model.classes_of(len(read.pixels)).argmax(1).cpu()
    given = read.labels if label is None else torch.as_tensor(label)
    if given is None:
        raise ValueError(
            f"the model is conditional on {model.nclasses} classes; give the class of the images, or of each, with"
            f" label=, a number from 0 to {model.nclasses - 1}."
        )
    labels = (given.expand(len(read.pixels)) if given.ndim == 0 else given).cpu()
    if labels.is_floating_point() or labels.shape != (len(read.pixels),):
        raise ValueError(f"label={label}: give one class number, or one for each of the {len(read.pixels)} images.")
    return labels.long()


def _joined(parts: list[Tensor], empty: tuple[int, ...]) -> Tensor:
    """Return the concatenated parts, or a tensor of the shape `empty` if there are none."""
    return torch.cat(parts) if parts else torch.empty(empty)

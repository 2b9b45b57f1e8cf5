"""Interpolation between pictures: decoded latents on a path from one posterior mean to another."""

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.pictures import Pictures, read_pictures
from vae_lab.errors import require_choice, require_count
from vae_lab.latents.encoding import Images, Labels, batches_of, labels_of
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.inference import batch_size

PATHS = ("spherical", "linear")


def interpolate_images(
    model: LatentModel,
    images: Pictures,
    n: int = 9,
    *,
    path: str = "spherical",
    label: Labels | None = None,
    layout: str | None = None,
) -> Images:
    """Return `n` images decoded on a path between two pictures, on the CPU and without gradients.

    The first and the last are the pictures' reconstructions. In a ladder, the latents of all groups are interpolated.

    Args:
        model: the model; see `encode_images`.
        images: two pictures.
        n: number of images, at least 2.
        path: "spherical" keeps the length of the latents, on which decoders depend (White 2016,
            https://arxiv.org/abs/1609.04468); "linear" is the straight line.
        label: for a conditional model, the class that all images are encoded and decoded with.
        layout: see `encode_images`.

    Raises:
        DataError: if a file is not a usable image.
        ValueError: if there are not two pictures, or their classes differ.

    Example:
        >>> from vae_lab import interpolate_images, load_data, load_model
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> interpolate_images(model, load_data("outputs/digits").splits.test[:2], n=5).shape
        torch.Size([5, 1, 28, 28])
    """
    require_count("n", n, 2)
    require_choice("path", path, PATHS)
    read = read_pictures(images, model, layout)
    if len(read.pixels) != 2:
        raise ValueError(f"images names {len(read.pixels)} pictures; give two to interpolate between.")
    labels = labels_of(model, read, label)
    if labels is not None and labels[0] != labels[1]:
        raise ValueError(f"the pictures are of the classes {labels.tolist()}; give one class for both with label=.")
    with torch.no_grad(), evaluating(model):
        ((one, part),) = batches_of(model, read._replace(labels=labels), None if labels is None else labels)
        first, last = one.posterior(part).mean
        return decode_latents(model, latent_path(first, last, n, path), None if labels is None else labels[0])


def latent_path(
    first: Float[Tensor, " nlatent"], last: Float[Tensor, " nlatent"], n: int, path: str
) -> Float[Tensor, "n nlatent"]:
    """Return `n` latents from one to another, evenly spaced on a straight line, or in angle for `path` "spherical".

    A straight line also joins latents that have no arc between them: in one or in opposite directions, or zero.
    """
    share = torch.linspace(0, 1, n, dtype=torch.float64).unsqueeze(1)
    a, b = first.double().cpu(), last.double().cpu()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0)
    angle = cosine.clamp(-1, 1).acos()
    has_arc = a.any() and b.any() and cosine.abs() < 1 - 1e-9
    if path == "linear" or not has_arc:
        found = (1 - share) * a + share * b
    else:
        found = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()
    return found.to(first)


def decode_latents(model: LatentModel, z: Float[Tensor, "n nlatent"], label: Tensor | None) -> Images:
    """Return the mean images decoded from latents, on the CPU, all with the class `label` if the model has classes."""
    parts = z.to(next(model.parameters())).split(batch_size(model))
    given = (model if label is None else model.given(label.expand(len(part)).to(part.device)) for part in parts)
    return torch.cat([one.generative(part).mean.cpu() for one, part in zip(given, parts, strict=True)])

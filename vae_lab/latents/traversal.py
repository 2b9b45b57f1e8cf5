"""Walks from pictures through the latent space: along single latents, or along a direction between two sets."""

import csv
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.pictures import Pictures, read_pictures
from vae_lab.errors import DataError, require_count, require_number
from vae_lab.latents.coloring import number_or_text
from vae_lab.latents.encoding import Labels, batches_of, encode_images, labels_of
from vae_lab.latents.interpolation import decode_latents
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel, latent_rates


class Traversal(NamedTuple):
    """Decoded images of a walk along each of several latents.

    Attributes:
        latents: the number of the latent of each row.
        rates: KL of each of them to the prior in nats, averaged over the pictures.
        images: pixels; row i moves latent `latents[i]` alone.
    """

    latents: list[int]
    rates: list[float]
    images: Float[Tensor, "rows n channels height width"]


def traverse_images(
    model: LatentModel,
    images: Pictures,
    n: int = 7,
    *,
    nlatents: int = 8,
    reach: float = 3.0,
    label: Labels | None = None,
    layout: str | None = None,
) -> Traversal:
    """Return images decoded from the first picture's posterior mean with one latent moved at a time.

    The latents are those with the largest KL to the prior, averaged over all pictures, in that order.

    Args:
        model: the model; see `encode_images`.
        images: pictures; the first is the start.
        n: images of a latent.
        nlatents: latents that are moved, at most.
        reach: each moves from -reach to reach; the prior's standard deviation is 1.
        label: see `encode_images`.
        layout: see `encode_images`.

    Example:
        >>> from vae_lab import load_data, load_model
        >>> from vae_lab.latents.traversal import traverse_images
        >>> model = load_model("outputs/digits")  # the run of train_run's example
        >>> traverse_images(model, load_data("outputs/digits").splits.test[:5], n=7, nlatents=4).images.shape
        torch.Size([4, 7, 1, 28, 28])
    """
    require_count("n", n, 2)
    require_count("nlatents", nlatents)
    require_number("reach", reach, "(0, inf)")
    read = read_pictures(images, model, layout)
    labels = labels_of(model, read, label)
    rates, start = torch.zeros(model.nlatent), torch.zeros(0)
    with torch.no_grad(), evaluating(model):
        for one, part in batches_of(model, read, labels):
            inference = one.infer(one.posterior(part), noise=part.new_zeros(1, model.nlatent))
            rates += latent_rates(inference).sum(0).cpu().float()
            start = start if len(start) else inference.posterior.mean[0].cpu()
        latents = rates.argsort(descending=True)[:nlatents].tolist()
        z = start.repeat(len(latents), n, 1)
        for row, latent in enumerate(latents):
            z[row, :, latent] = torch.linspace(-reach, reach, n)
        decoded = decode_latents(model, z.flatten(0, 1), None if labels is None else labels[0])
    return Traversal(latents, (rates[latents] / len(read.pixels)).tolist(), decoded.unflatten(0, (len(latents), n)))


def latent_direction(
    model: LatentModel, first: Pictures, second: Pictures, *, label: Labels | None = None
) -> Float[Tensor, " nlatent"]:
    """Return the mean latent vector of the second pictures minus that of the first ones."""
    return encode_images(model, second, label=label).mean(0) - encode_images(model, first, label=label).mean(0)


def walk_direction(
    model: LatentModel,
    images: Pictures,
    direction: Float[Tensor, " nlatent"],
    n: int = 7,
    *,
    reach: float = 1.0,
    label: Labels | None = None,
    layout: str | None = None,
) -> Float[Tensor, "rows n channels height width"]:
    """Return, for each picture, `n` images decoded from its posterior mean plus -reach to reach times a direction.

    The arguments are those of `traverse_images`; at reach 1, the last image has the whole difference of two classes.
    """
    require_count("n", n, 2)
    require_number("reach", reach, "(0, inf)")
    read = read_pictures(images, model, layout)
    labels = labels_of(model, read, label)
    means = encode_images(model, read.pixels, label=labels)
    steps = torch.linspace(-reach, reach, n)[:, None] * direction.to(means)
    with torch.no_grad(), evaluating(model):
        rows = [
            decode_latents(model, mean + steps, None if labels is None else labels[i]) for i, mean in enumerate(means)
        ]
    return torch.stack(rows)


def read_direction(path: Path) -> tuple[list[Path], list[Path], tuple[str, str]]:
    """Return the pictures of the two labels in a CSV with the columns path and label, and the labels in their order.

    Paths are relative to the CSV's folder. Labels are ordered as numbers if both are, else as texts.

    Raises:
        DataError: if the file cannot be read, or has other columns or not two labels.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = [(path.parent / row["path"], row["label"].strip()) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise DataError(f"direction={path} must be a CSV with the columns path and label.") from error
    labels = {label for _, label in rows}
    if len(labels) != 2:
        raise DataError(f"direction={path} has {len(labels)} different labels; give two, such as 0 and 1.")
    low, high = sorted(labels, key=number_or_text)
    return [file for file, label in rows if label == low], [file for file, label in rows if label == high], (low, high)

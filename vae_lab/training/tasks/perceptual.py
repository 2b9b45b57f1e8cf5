"""Perceptual distance in the features of a pretrained network (LPIPS)."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import DataError, require_number
from vae_lab.system.folders import torch_folder

Images = Float[Tensor, "batch channels height width"]


class Perceptual(nn.Module, ABC):
    """The role: a distance for each pair of images."""

    @abstractmethod
    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighted distance of each reconstruction from its image."""


class NoPerceptual(Perceptual):
    """No distance."""

    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return zeros."""
        return image.new_zeros(len(image))


BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
"""What torchvision calls the networks under LPIPS; torchmetrics ships what lies on top of them."""


class LPIPS(Perceptual):
    """Learned perceptual image patch similarity: Zhang et al. 2018, https://arxiv.org/abs/1801.03924.

    Args:
        weight: of the distance, which is about 0.5 for unlike images; so beside nats it is large.
        backbone: alex, vgg or squeeze.
        image_size: image height and width in pixels.

    Raises:
        DataError: if the backbone's weights are not on the disk; nothing is downloaded in the middle of a run.
    """

    def __init__(self, *, weight: float, backbone: str, image_size: int) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"task.perceptual.backbone={backbone}: there are {', '.join(BACKBONES)}.")
        require_number("task.perceptual.weight", weight)
        self.weight = weight
        network = load_network(backbone, backbone_weights(backbone))
        self.network = [network.requires_grad_(requires_grad=False)]  # in a list, so that no checkpoint holds it
        blank = torch.zeros(1, 3, image_size, image_size)
        try:
            self(blank, blank)
        except RuntimeError as error:  # a pooling that nothing is left for
            raise ValueError(
                f"task.perceptual.backbone={backbone} cannot look at data.image_size={image_size}; choose larger"
                " images, another backbone or task/perceptual=none."
            ) from error

    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighted distance of each reconstruction from its image; grey is shown in three equal channels.

        In single precision, whatever autocast says: it is a sum of small differences.
        """
        network = self.network[0].to(image.device)
        with torch.autocast(image.device.type, enabled=False):
            pairs = [x.float().expand(-1, 3, -1, -1) for x in (reconstruction, image)]
            return self.weight * network(*pairs, normalize=True).flatten()


def load_network(backbone: str, file: Path) -> nn.Module:
    """Return LPIPS's network.

    Raises:
        DataError: if the file is not there or holds no such weights.
    """
    remedy = f"from https://download.pytorch.org/models/{file.name}; or choose task/perceptual=none."
    if not file.is_file():
        raise DataError(f"task/perceptual=lpips needs torchvision's weights at {file}, {remedy}")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        torch.load(file, map_location="cpu", weights_only=True)  # torchvision trusts the file with more than tensors
        return LearnedPerceptualImagePatchSimilarity(backbone, normalize=True).net  # pyright: ignore[reportArgumentType]
    except Exception as error:  # torch names no common type for what a damaged or hostile file can raise
        raise DataError(f"{file} does not hold torchvision's weights; delete it and get them anew, {remedy}") from error


def backbone_weights(backbone: str) -> Path:
    """Return where torchvision keeps the weights of a network once it has downloaded them."""
    return torch_folder() / "hub" / "checkpoints" / BACKBONES[backbone]

"""Distances between images in the features of a network trained elsewhere."""

import os
from abc import ABC, abstractmethod
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import DataError

Images = Float[Tensor, "batch channels height width"]


class Perceptual(nn.Module, ABC):
    """The role: a distance for each pair of images."""

    @abstractmethod
    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighed distance of each reconstruction from its image."""


class Nothing(Perceptual):
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

    Raises:
        DataError: if the backbone's weights are not on the disk; nothing is downloaded in the middle of a run.
    """

    def __init__(self, *, weight: float, backbone: str) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"task.perceptual.backbone={backbone}: there are {', '.join(BACKBONES)}.")
        file = backbone_weights(backbone)
        if not file.is_file():
            raise DataError(
                f"task/perceptual=lpips needs torchvision's weights at {file}, from"
                f" https://download.pytorch.org/models/{file.name}; or choose task/perceptual=none."
            )
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity(backbone, normalize=True).net  # pyright: ignore[reportArgumentType]
        self.weight = weight
        self.network = [network.requires_grad_(requires_grad=False)]  # in a list, so that no checkpoint holds it

    def forward(self, image: Images, reconstruction: Images) -> Float[Tensor, " batch"]:
        """Return the weighed distance of each reconstruction from its image; grey is shown in three equal channels."""
        network = self.network[0].to(image.device)
        pairs = [x.expand(-1, 3, -1, -1) for x in (reconstruction, image)]
        return self.weight * network(*pairs, normalize=True).flatten()


def backbone_weights(backbone: str) -> Path:
    """Return where torchvision keeps the weights of a network once it has downloaded them."""
    home = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch")
    return home / "hub" / "checkpoints" / BACKBONES[backbone]

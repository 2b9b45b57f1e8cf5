"""A small MLP-Mixer (Tolstikhin et al. 2021, https://arxiv.org/abs/2105.01601) in both directions.

image [B, nin, k, k] -> patches [B, n, width] -> blocks -> [B, nout]
latents [B, nin] -> patches [B, n, width] -> blocks -> image [B, nout, k, k]
"""

from jaxtyping import Float
from torch import Tensor, nn

Patches = Float[Tensor, "batch npatches width"]


class MixerBlock(nn.Module):
    """A linear map over the patches, then one over the numbers of each patch, both beside a shortcut."""

    def __init__(self, npatches: int, width: int) -> None:
        super().__init__()
        self.over_patches = nn.Sequential(nn.LayerNorm(width), Transposed(nn.Linear(npatches, npatches)), nn.GELU())
        self.over_width = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

    def forward(self, x: Patches) -> Patches:
        """Return patches that have seen each other."""
        x = x + self.over_patches(x)
        return x + self.over_width(x)


class Transposed(nn.Module):
    """A layer applied to the last but one dimension."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Patches) -> Patches:
        """Return the layer's output, transposed back."""
        return self.layer(x.mT).mT


def count_patches(image_size: int, patch: int) -> int:
    """Return the number of patches in an image.

    Raises:
        ValueError: if they do not fill the image.
    """
    if image_size % patch:
        raise ValueError(f"model.encoder.patch={patch} does not divide data.image_size={image_size}.")
    return (image_size // patch) ** 2


class MixerEncoder(nn.Module):
    """From images to numbers: [B, nin, k, k] -> [B, nout]."""

    def __init__(self, nin: int, image_size: int, nout: int, *, patch: int, width: int, nblocks: int) -> None:
        super().__init__()
        n = count_patches(image_size, patch)
        self.cut = nn.Conv2d(nin, width, patch, stride=patch)
        self.blocks = nn.Sequential(*(MixerBlock(n, width) for _ in range(nblocks)))
        self.head = nn.Linear(n * width, nout)

    def forward(self, image: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout"]:
        """Return `nout` numbers for each image."""
        patches = self.cut(image).flatten(2).mT
        return self.head(self.blocks(patches).flatten(1))


class MixerDecoder(nn.Module):
    """From latents to images: [B, nin] -> [B, nout, k, k]."""

    def __init__(self, nin: int, image_size: int, nout: int, *, patch: int, width: int, nblocks: int) -> None:
        super().__init__()
        n = count_patches(image_size, patch)
        self.shape = (n, width)
        self.side = image_size // patch
        self.head = nn.Linear(nin, n * width)
        self.blocks = nn.Sequential(*(MixerBlock(n, width) for _ in range(nblocks)))
        self.paste = nn.ConvTranspose2d(width, nout, patch, stride=patch)

    def forward(self, z: Float[Tensor, "batch nin"]) -> Float[Tensor, "batch nout height width"]:
        """Return `nout` numbers for each pixel."""
        patches = self.blocks(self.head(z).unflatten(1, self.shape))
        return self.paste(patches.mT.unflatten(2, (self.side, self.side)))

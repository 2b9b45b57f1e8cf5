"""Residual convolutional encoder and decoder.

    64x64 -> stem -> [block -> half] at 64, 32, 16, 8 -> 4x4 -> linear -> nout, and back by [double -> block]

With `spatial`, a 1x1 convolution replaces the linear map: nout / 16 feature maps of 4x4, flattened to [nout].

With `patch` 4, a pixel unshuffle turns each patch of 4x4 pixels into one position with 16 times the channels (Shi et
al. 2016, https://arxiv.org/abs/1609.05158). With `coarse`, each block runs at the smaller of the two sizes beside it,
which takes a quarter of the arithmetic:

    128x128 -> 32x32 of 4x4 pixels -> stem -> [half -> block] at 16, 8, 4 -> linear -> nout, and back by [block, double]

GroupNorm and SiLU precede each convolution (He et al. 2016, pre-activation, https://arxiv.org/abs/1603.05027). The
decoder resizes before it convolves, which avoids checkerboard artifacts (Odena et al. 2016,
https://distill.pub/2016/deconv-checkerboard).
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import require_count


def halvings(image_size: int, smallest: int) -> int:
    """Return how many times `image_size` can be halved such that each result is an integer of at least `smallest`."""
    depth = 0
    while image_size % 2 == 0 and image_size // 2 >= smallest:
        image_size //= 2
        depth += 1
    return depth


def level_widths(widths: Sequence[int], image_size: int, smallest: int, patch: int) -> list[int]:
    """Return the number of channels at each size, the largest size first; the last of `widths` repeats as needed.

    Raises:
        ValueError: if the image cannot be split into patches and halved at least once.
    """
    require_count("model.encoder.patch", patch)
    depth = 0 if image_size % patch else halvings(image_size // patch, smallest)
    if depth == 0:
        unit = "" if patch == 1 else f" patches of {patch} pixels"
        raise ValueError(
            f"data.image_size={image_size} cannot be halved to {smallest} or more{unit}; choose a multiple of"
            f" {2 * patch} of at least {2 * smallest * patch} for data.image_size, or model=conv."
        )
    return [widths[min(i, len(widths) - 1)] for i in range(depth + 1)]


class Block(nn.Module):
    """A residual block of two convolutions: [B, nin, h, w] -> [B, nout, h, w]."""

    def __init__(self, nin: int, nout: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(activated(nin, nout, groups), activated(nout, nout, groups))
        self.shortcut = nn.Identity() if nin == nout else nn.Conv2d(nin, nout, 1)

    def forward(self, x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout height width"]:
        """Return shortcut(x) + body(x)."""
        return self.shortcut(x) + self.body(x)


def activated(nin: int, nout: int, groups: int) -> nn.Sequential:
    """Return the layers GroupNorm, SiLU and 3x3 convolution in sequence.

    Raises:
        ValueError: if `nin` is not a multiple of `groups`.
    """
    if nin % groups:
        raise ValueError(f"{nin} channels cannot be divided into {groups} groups; choose widths that are multiples.")
    return nn.Sequential(nn.GroupNorm(groups, nin), nn.SiLU(), nn.Conv2d(nin, nout, 3, padding=1))


def maps(nlatent: int, size: int) -> int:
    """Return the number of feature maps of `size` x `size` that hold `nlatent` latents.

    Raises:
        ValueError: if `nlatent` is not a multiple of `size` squared.
    """
    if nlatent % size**2:
        raise ValueError(
            f"model.nlatent={nlatent} does not fill feature maps of {size}x{size}; choose a multiple of {size**2}, or"
            " model.encoder.spatial=false."
        )
    return nlatent // size**2


class ResEncoder(nn.Module):
    """Residual blocks and downsampling, then a linear map or a 1x1 convolution: [B, nin, k, k] -> [B, nout].

    Args:
        nin: image channels.
        image_size: height and width of the image.
        nout: outputs per image.
        widths: channels at each size, from the largest.
        groups: groups of GroupNorm.
        smallest: smallest size to downsample to.
        spatial: whether the outputs are feature maps of the smallest size, or come from a linear map.
        patch: side of a patch in pixels; sizes and `smallest` then count patches.
        coarse: whether blocks follow downsampling or precede it.
        nbottom: additional blocks at the smallest size.

    Attributes:
        cells: latents per feature map, which are adjacent in the output; 1 if not `spatial`.
    """

    def __init__(
        self,
        nin: int,
        image_size: int,
        nout: int,
        *,
        widths: Sequence[int],
        groups: int,
        smallest: int,
        spatial: bool,
        patch: int = 1,  # neutral, so that runs stored without them load
        coarse: bool = False,
        nbottom: int = 0,
    ) -> None:
        super().__init__()
        levels = level_widths(widths, image_size, smallest, patch)
        size = image_size // patch // 2 ** (len(levels) - 1)
        layers: list[nn.Module] = [nn.PixelUnshuffle(patch)] if patch > 1 else []
        layers.append(nn.Conv2d(nin * patch**2, levels[0], 3, padding=1))
        for before, after in pairwise(levels):
            step = [Block(before, after, groups), nn.AvgPool2d(2)]
            layers += reversed(step) if coarse else step
        layers += [Block(levels[-1], levels[-1], groups) for _ in range(nbottom)]
        self.features = nn.Sequential(*layers, nn.GroupNorm(groups, levels[-1]), nn.SiLU())
        self.spatial = spatial
        self.cells = size**2 if spatial else 1
        self.head = (
            nn.Conv2d(levels[-1], 2 * maps(nout // 2, size), 1) if spatial else nn.Linear(levels[-1] * size**2, nout)
        )

    def forward(self, image: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout"]:
        """Return the network's `nout` outputs for each image."""
        features = self.features(image)
        if self.spatial:
            return self.head(features).flatten(1)
        return self.head(features.permute(0, 2, 3, 1).flatten(1))  # channels-last in memory: flattening copies nothing


class ResDecoder(nn.Module):
    """A linear map or a 1x1 convolution, then upsampling and residual blocks: [B, nin] -> [B, nout, k, k]."""

    def __init__(
        self,
        nin: int,
        image_size: int,
        nout: int,
        *,
        widths: Sequence[int],
        groups: int,
        smallest: int,
        spatial: bool,
        patch: int = 1,  # neutral, so that runs stored without them load
        coarse: bool = False,
        nbottom: int = 0,
    ) -> None:
        super().__init__()
        levels = level_widths(widths, image_size, smallest, patch)
        size = image_size // patch // 2 ** (len(levels) - 1)
        self.spatial = spatial
        self.shape = (maps(nin, size), size, size) if spatial else (size, size, levels[-1])
        self.head = nn.Conv2d(self.shape[0], levels[-1], 1) if spatial else nn.Linear(nin, levels[-1] * size**2)
        layers: list[nn.Module] = [Block(levels[-1], levels[-1], groups) for _ in range(nbottom)]
        for after, before in reversed(list(pairwise(levels))):
            step = [nn.Upsample(scale_factor=2, mode="nearest"), Block(before, after, groups)]
            layers += reversed(step) if coarse else step
        layers.append(activated(levels[0], nout * patch**2, groups))
        self.blocks = nn.Sequential(*layers, *([nn.PixelShuffle(patch)] if patch > 1 else []))

    def forward(self, z: Float[Tensor, "batch nin"]) -> Float[Tensor, "batch nout height width"]:
        """Return the network's `nout` outputs for each pixel."""
        if self.spatial:
            return self.blocks(self.head(z.unflatten(1, self.shape)))
        return self.blocks(self.head(z).unflatten(1, self.shape).permute(0, 3, 1, 2))

"""Residual convolutional encoder and decoder.

    64x64 -> stem -> [block -> half] at 64, 32, 16, 8 -> 4x4 -> linear -> nout, and back by [double -> block]

With `spatial` a 1x1 convolution takes the linear map's place: nout / 16 maps of 4x4, each number of which stands for
its part of the image. They are handed on flat, [nout], like any latents.

With `patch` 4 the networks see and draw 4x4 pixels at once, as 16 times the channels on a grid of a quarter of the size
(Shi et al. 2016, https://arxiv.org/abs/1609.05158); with `coarse` each block lies on the smaller side of its halving,
which is a quarter of the arithmetic:

    128x128 -> 32x32 of 4x4 pixels -> stem -> [half -> block] at 16, 8, 4 -> linear -> nout, and back by [block, double]

GroupNorm and SiLU before each convolution (He et al. 2016, pre-activation, https://arxiv.org/abs/1603.05027); the way
up resizes and then convolves, which leaves no checkerboard (Odena et al. 2016,
https://distill.pub/2016/deconv-checkerboard).
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import require_count


def halvings(image_size: int, smallest: int) -> int:
    """Return how often the image is halved: as long as it stays even and at least `smallest` comes out."""
    depth = 0
    while image_size % 2 == 0 and image_size // 2 >= smallest:
        image_size //= 2
        depth += 1
    return depth


def level_widths(widths: Sequence[int], image_size: int, smallest: int, patch: int) -> list[int]:
    """Return the channels at each size from the image's to the smallest; the last of `widths` repeats as needed.

    Raises:
        ValueError: if the image does not fall into patches that can be halved once.
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
    """Two convolutions beside a shortcut: [B, nin, h, w] -> [B, nout, h, w]."""

    def __init__(self, nin: int, nout: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(activated(nin, nout, groups), activated(nout, nout, groups))
        self.shortcut = nn.Identity() if nin == nout else nn.Conv2d(nin, nout, 1)

    def forward(self, x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout height width"]:
        """Return the shortcut plus the body."""
        return self.shortcut(x) + self.body(x)


def activated(nin: int, nout: int, groups: int) -> nn.Sequential:
    """Return a 3x3 convolution with GroupNorm and SiLU before it.

    Raises:
        ValueError: if the channels do not fall into `groups`.
    """
    if nin % groups:
        raise ValueError(
            f"{nin} channels do not fall into {groups} groups; choose widths that are multiples of groups."
        )
    return nn.Sequential(nn.GroupNorm(groups, nin), nn.SiLU(), nn.Conv2d(nin, nout, 3, padding=1))


def maps(nlatent: int, size: int) -> int:
    """Return how many maps of `size` x `size` numbers hold `nlatent`.

    Raises:
        ValueError: if they do not fill whole maps.
    """
    if nlatent % size**2:
        raise ValueError(
            f"model.nlatent={nlatent} does not fill maps of {size}x{size} numbers; choose a multiple of {size**2}, or"
            " model.encoder.spatial=false."
        )
    return nlatent // size**2


class ResEncoder(nn.Module):
    """Blocks and halvings, then one linear map or a map for each latent channel: [B, nin, k, k] -> [B, nout].

    Args:
        nin: image channels.
        image_size: height and width of the image.
        nout: numbers per image.
        widths: channels at each size, beginning with the image's own.
        groups: of GroupNorm.
        smallest: size under which nothing is halved.
        spatial: whether the numbers lie on a grid of that size, or each sees the whole image.
        patch: pixels a side that are taken in at once; sizes and `smallest` then count patches.
        coarse: whether a block follows its halving, or comes before it.
        nbottom: further blocks at the smallest size, where they are cheap.

    Attributes:
        cells: latents of a map, which lie side by side; 1 where each sees the whole image.
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
        """Return `nout` numbers for each image."""
        features = self.features(image)
        if self.spatial:
            return self.head(features).flatten(1)
        return self.head(features.permute(0, 2, 3, 1).flatten(1))  # channels-last in memory: flattening copies nothing


class ResDecoder(nn.Module):
    """The way back: a linear map or a convolution, then doublings and blocks: [B, nin] -> [B, nout, k, k]."""

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
        """Return `nout` numbers for each pixel."""
        if self.spatial:
            return self.blocks(self.head(z.unflatten(1, self.shape)))
        return self.blocks(self.head(z).unflatten(1, self.shape).permute(0, 3, 1, 2))

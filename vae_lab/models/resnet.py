"""Residual networks that halve the image until it is small: parameters grow with the logarithm of the image size.

    64x64 -> stem -> [block -> half] at 64, 32, 16, 8 -> 4x4 -> linear -> nout, and back by [double -> block]

GroupNorm and SiLU before each convolution (He et al. 2016, pre-activation, https://arxiv.org/abs/1603.05027); the way
up resizes and then convolves, which leaves no checkerboard (Odena et al. 2016,
https://distill.pub/2016/deconv-checkerboard).
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


def halvings(image_size: int, smallest: int) -> int:
    """Return how often the image is halved: as long as it stays even and at least `smallest` comes out."""
    depth = 0
    while image_size % 2 == 0 and image_size // 2 >= smallest:
        image_size //= 2
        depth += 1
    return depth


def level_widths(widths: Sequence[int], image_size: int, smallest: int) -> list[int]:
    """Return the channels at each size from the image to the smallest; the last of `widths` repeats as needed.

    Raises:
        ValueError: if the image cannot be halved once.
    """
    depth = halvings(image_size, smallest)
    if depth == 0:
        raise ValueError(
            f"data.image_size={image_size} cannot be halved to {smallest} or more; choose an even size of at least"
            f" {2 * smallest}, or model=conv."
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


class ResEncoder(nn.Module):
    """Blocks and halvings, then one linear map: [B, nin, k, k] -> [B, nout].

    Args:
        nin: image channels.
        image_size: height and width of the image.
        nout: numbers per image.
        widths: channels at each size, beginning with the image's own.
        groups: of GroupNorm.
        smallest: size under which nothing is halved.
    """

    def __init__(
        self, nin: int, image_size: int, nout: int, *, widths: Sequence[int], groups: int, smallest: int
    ) -> None:
        super().__init__()
        levels = level_widths(widths, image_size, smallest)
        size = image_size // 2 ** (len(levels) - 1)
        layers: list[nn.Module] = [nn.Conv2d(nin, levels[0], 3, padding=1)]
        for before, after in pairwise(levels):
            layers += [Block(before, after, groups), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers, nn.GroupNorm(groups, levels[-1]), nn.SiLU())
        self.head = nn.Linear(levels[-1] * size * size, nout)

    def forward(self, image: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout"]:
        """Return `nout` numbers for each image."""
        features = self.features(image).permute(0, 2, 3, 1)  # channels-last in memory, so flattening copies nothing
        return self.head(features.flatten(1))


class ResDecoder(nn.Module):
    """The way back: one linear map, then doublings and blocks: [B, nin] -> [B, nout, k, k]."""

    def __init__(
        self, nin: int, image_size: int, nout: int, *, widths: Sequence[int], groups: int, smallest: int
    ) -> None:
        super().__init__()
        levels = level_widths(widths, image_size, smallest)
        size = image_size // 2 ** (len(levels) - 1)
        self.shape = (size, size, levels[-1])
        self.head = nn.Linear(nin, levels[-1] * size * size)
        layers: list[nn.Module] = []
        for after, before in reversed(list(pairwise(levels))):
            layers += [nn.Upsample(scale_factor=2, mode="nearest"), Block(before, after, groups)]
        self.blocks = nn.Sequential(*layers, activated(levels[0], nout, groups))

    def forward(self, z: Float[Tensor, "batch nin"]) -> Float[Tensor, "batch nout height width"]:
        """Return `nout` numbers for each pixel."""
        return self.blocks(self.head(z).unflatten(1, self.shape).permute(0, 3, 1, 2))

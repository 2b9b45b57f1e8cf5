"""DiffAugment: differentiable augmentation of a discriminator's input, against memorization of a small training set.

Zhao et al. 2020, https://arxiv.org/abs/2006.10738. Real and generated images are both augmented, and gradients flow
through the augmentation to the decoder.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vae_lab.errors import require_number
from vae_lab.system.printing import PrintsCall

Images = Float[Tensor, "batch channels height width"]


class Augmentation(NamedTuple):
    """An augmentation with fixed random parameters for each image; call it on any batch of the same size.

    Attributes:
        flip: whether the image is mirrored left to right.
        brightness: value added to every pixel.
        saturation: factor of the distance from grey.
        contrast: factor of the distance from the image's mean.
        shift: translation down and right in pixels, filled with black.
        hole: top left corner of a black square.
        side: side of the square in pixels.
    """

    flip: Bool[Tensor, " batch"]
    brightness: Float[Tensor, " batch"]
    saturation: Float[Tensor, " batch"]
    contrast: Float[Tensor, " batch"]
    shift: Float[Tensor, "batch 2"]
    hole: Float[Tensor, "batch 2"]
    side: int

    def __call__(self, image: Images) -> Images:
        """Return the augmented images, in the order of the paper: colour, translation, cutout."""
        height, width = image.shape[2:]
        x = torch.where(column(self.flip), image.flip(3), image) + column(self.brightness)
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * column(self.saturation) + grey
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * column(self.contrast) + mean
        rows = torch.arange(height, device=x.device) - self.shift[:, :1]
        columns = torch.arange(width, device=x.device) - self.shift[:, 1:]
        which = torch.arange(len(x), device=x.device)[:, None, None]
        moved = x.permute(0, 2, 3, 1)[
            which, rows.long().clamp(0, height - 1)[:, :, None], columns.long().clamp(0, width - 1)[:, None, :]
        ]
        down, along = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        inside = within(rows, 0, height)[:, :, None] & within(columns, 0, width)[:, None, :]
        top, left = self.hole[:, :1], self.hole[:, 1:]
        cut = within(down - top, 0, self.side)[:, :, None] & within(along - left, 0, self.side)[:, None, :]
        return (moved * (inside & ~cut)[..., None]).permute(0, 3, 1, 2)


class DiffAugment(PrintsCall):
    """Draws random augmentations: colour, translation, cutout and flip; a strength of 0 turns one off.

    Args:
        colour: strength; 1, as in the paper, changes brightness by up to 0.25, saturation by factors from 0 to 2 and
            contrast by factors from 1/2 to 3/2.
        translation: largest shift as a share of the image's side; 1/8 in the paper.
        cutout: side of the black square as a share of the image's side; 1/2 in the paper.
        flip: whether half of the images are mirrored; unsuitable for digits.
    """

    def __init__(self, *, colour: float, translation: float, cutout: float, flip: bool) -> None:
        for name, value in (("colour", colour), ("translation", translation), ("cutout", cutout)):
            require_number(f"augment.{name}", value, "[0, 1]")
        self.colour = colour
        self.translation = translation
        self.cutout = cutout
        self.flip = flip

    def draw(self, image: Images) -> Augmentation:
        """Return an augmentation with random parameters for each image of a batch."""
        n, side = len(image), image.shape[-1]
        brightness, saturation, contrast, mirrored = torch.rand(4, n, device=image.device)
        reach, hole = round(self.translation * side), round(self.cutout * side)
        shift = torch.randint(-reach, reach + 1, (n, 2), device=image.device).float()
        corner = torch.randint(1 - hole // 2, side - hole // 2 + 1, (n, 2), device=image.device).float()
        return Augmentation(
            flip=(mirrored < 0.5) & self.flip,
            brightness=self.colour * (brightness - 0.5) / 2,
            saturation=1 + self.colour * (2 * saturation - 1),
            contrast=1 + self.colour * (contrast - 0.5),
            shift=shift,
            hole=corner,
            side=hole,
        )


def column(values: Tensor) -> Tensor:
    """Return one value per image as [batch, 1, 1, 1], which broadcasts over pixels."""
    return values[:, None, None, None]


def within(x: Tensor, low: int, high: int) -> Tensor:
    """Return a mask that is true where low <= x < high."""
    return (x >= low) & (x < high)

"""Discs, squares and diamonds: a data set that is drawn, and needs no files."""

from typing import Any

import torch

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet, Splits
from vae_lab.data.splits import split


class Shapes(ImageData):
    """Grey shapes at random places, in random sizes; the class of an image is its shape.

    Args:
        nimages: number of images in all parts together.
        nval: validation images.
        ntest: test images.
        settings: those of `ImageData`.
    """

    def __init__(self, *, nimages: int, nval: int, ntest: int, **settings: Any) -> None:
        super().__init__(**settings)
        if self.channels != 1:
            raise ValueError(f"data.channels={self.channels}: the shapes are grey; choose data.channels=1.")
        self.nimages = nimages
        self.nval = nval
        self.ntest = ntest
        self.classes = ("disc", "square", "diamond")

    def load(self) -> Splits:
        """Return the images, drawn from `split_seed`."""
        generator = torch.Generator().manual_seed(self.split_seed)
        labels = torch.randint(3, (self.nimages,), generator=generator)
        x, y, size = torch.rand(3, self.nimages, 1, 1, generator=generator)
        axis = torch.linspace(0, 1, self.image_size)
        dx, dy = (axis[None, None, :] - 0.3 - 0.4 * x).abs(), (axis[None, :, None] - 0.3 - 0.4 * y).abs()
        radii = torch.stack([torch.hypot(dx, dy), torch.maximum(dx, dy), dx + dy])  # one norm for each shape
        inside = torch.sigmoid(self.image_size * (0.1 + 0.15 * size - radii[labels, torch.arange(self.nimages)]))
        images = ImageSet((255 * inside).round().to(torch.uint8)[:, None], labels)
        rows = split(torch.arange(self.nimages), self.nval, self.ntest, self.split_seed)
        return Splits(*(images.subset(part) for part in rows))

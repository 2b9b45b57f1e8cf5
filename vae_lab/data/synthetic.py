"""Synthetic images of any size, for tests and benchmarks."""

from typing import Any

import torch
from torch.nn.functional import interpolate

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet, Splits
from vae_lab.errors import require_count


class SyntheticBlobs(ImageData):
    """A data set of smooth random images in 10 classes, which differ in brightness.

    Args:
        nimages: number of images, an eighth each for validation and test.
        settings: arguments of `ImageData`.
    """

    def __init__(self, *, nimages: int, **settings: Any) -> None:
        super().__init__(**settings)
        require_count("data.nimages", nimages, 8)
        self.nimages = nimages
        self.classes = tuple(map(str, range(10)))

    def load(self) -> Splits:
        """Return random images seeded by `split_seed`; an eighth each are for validation and test."""
        generator = torch.Generator().manual_seed(self.split_seed)
        labels = torch.randint(10, (self.nimages,), generator=generator)
        coarse = (
            torch.rand(self.nimages, self.channels, 4, 4, generator=generator) * (labels + 1).view(-1, 1, 1, 1) / 10
        )
        smooth = interpolate(coarse, size=self.image_size, mode="bilinear").mul(255).round().to(torch.uint8)
        images, eighth = ImageSet(smooth, labels), self.nimages // 8
        rows = torch.arange(self.nimages).split([self.nimages - 2 * eighth, eighth, eighth])
        return Splits(*(images.subset(part) for part in rows))

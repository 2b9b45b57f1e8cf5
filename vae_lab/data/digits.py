"""The 1,797 handwritten digits of scikit-learn, which need no download."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from vae_lab.data.datamodule import ImageData
from vae_lab.data.images import ImageSet, Splits
from vae_lab.data.resize import resized
from vae_lab.data.selection import check_only, select_classes, selected_names
from vae_lab.data.splits import split
from vae_lab.errors import require_count


class Digits(ImageData):
    """A data set of 8x8 grey digits in 10 classes, with 17 grey levels, resized to `image_size`.

    Args:
        nval: validation images, counted before `only` is applied.
        ntest: test images, counted likewise.
        only: classes to keep, renumbered from 0 in their order, or None for all.
        settings: arguments of `ImageData`.
    """

    def __init__(self, *, nval: int, ntest: int, only: Sequence[int] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        require_count("data.nval", nval)
        require_count("data.ntest", ntest)
        check_only(only, 10)
        self.classes = selected_names([str(digit) for digit in range(10)], only)
        self.only = only
        self.nval = nval
        self.ntest = ntest

    def load(self) -> Splits:
        """Return the digits, split at random by `split_seed`; images with equal pixels are in the same split."""
        digits: Any = load_digits()  # sklearn's Bunch has no types
        pixels = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8))[:, None]
        labels = torch.from_numpy(digits.target.astype(np.int64))
        images = ImageSet(resized(pixels, self.channels, self.image_size), labels)
        groups = torch.from_numpy(np.unique(digits.data, axis=0, return_inverse=True)[1].astype(np.int64))
        rows = split(groups, self.nval, self.ntest, self.split_seed)
        return select_classes(Splits(*(images.subset(part) for part in rows)), self.only)

"""MNIST and its relatives, by torchvision's classes."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import MNIST

from vae_lab.data.images import Images, Parts
from vae_lab.data.module import ImageData
from vae_lab.data.resize import resized
from vae_lab.data.selection import check_only, kept_names, of_classes
from vae_lab.data.split import split
from vae_lab.errors import DataError, require_counts
from vae_lab.system.folders import expanded

log = logging.getLogger(__name__)


class IdxImages(ImageData):
    """Grey images of 10 classes: the publisher's test part, and a training part of which `nval` images validate.

    Args:
        dataset: torchvision's class.
        root: folder that holds, or will hold, `<class name>/raw/`.
        download: whether to load what is missing.
        nval: validation images, taken from the publisher's training part.
        only: classes to keep, which are numbered anew in their order, or None for all;
            `nval` counts validation images before the others leave.
        settings: those of `ImageData`; images are resized where `image_size` is not 28.
    """

    def __init__(
        self,
        *,
        dataset: Callable[..., MNIST],
        root: str,
        download: bool,
        nval: int,
        only: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        require_counts(data__nval=nval)
        self.dataset = dataset
        kind: Any = getattr(dataset, "func", dataset)  # the class, whatever it was bound to
        self.title: str = kind.__name__
        check_only(only, len(kind.classes))
        self.classes = kept_names(kind.classes, only)
        self.only = only
        self.root = expanded(root)
        self.download = download
        self.nval = nval

    def load(self) -> Parts:
        """Return the parts, downloaded and checked by torchvision where they are not there."""
        if not (self.root / self.title).is_dir() and self.download:
            self._fetch()
        train, test = self._read(train=True), self._read(train=False)
        train_rows, val_rows, _ = split(torch.arange(len(train)), self.nval, 0, self.split_seed)
        return of_classes(Parts(train.subset(train_rows), train.subset(val_rows), test), self.only)

    def _read(self, *, train: bool) -> Images:
        try:
            found = self.dataset(root=self.root, train=train, download=False)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            where = (self.root / self.title / "raw").absolute()
            raise DataError(
                f"{self.title} is not in {where} ({reason(error)}); name the folder that holds {self.title}/raw with"
                " data.root=, let it be downloaded with data.download=true, or use data=digits, which needs no network."
            ) from error
        return Images(resized(found.data[:, None], self.channels, self.image_size), found.targets.long())

    def _fetch(self) -> None:
        """Download into a folder of its own and rename it, so that a killed download leaves nothing half done."""
        log.info("downloading %s to %s", self.title, self.root.absolute())
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".download-") as temporary:
                self.dataset(root=temporary, download=True)
                if not (self.root / self.title).is_dir():  # another process may have been faster
                    (Path(temporary) / self.title).rename(self.root / self.title)
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.title} is not in {self.root.absolute()} and could not be downloaded ({reason(error)}); name a"
                f" folder that holds {self.title}/raw with data.root=, or use data=digits, which needs no network."
            ) from error


def reason(error: BaseException) -> str:
    """Return an error's message in one line, or its kind."""
    return " ".join(str(error).split()).strip(" :.") or type(error).__name__

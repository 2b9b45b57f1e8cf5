"""MNIST and Fashion-MNIST, read by torchvision's classes."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import MNIST

from vae_lab.data.datamodule import ImageData
from vae_lab.data.files.listing import printable
from vae_lab.data.files.staging import made_folder
from vae_lab.data.images import ImageSet, Splits
from vae_lab.data.resize import resized
from vae_lab.data.selection import check_only, select_classes, selected_names
from vae_lab.data.splits import split
from vae_lab.errors import DataError, require_count
from vae_lab.system.error_text import reason
from vae_lab.system.folders import expanded

log = logging.getLogger(__name__)

FILES = "*-ubyte*"
"""Pattern of the names of the set's files."""


class IdxImages(ImageData):
    """A data set of grey images in 10 classes; the validation images are taken from the published training images.

    Args:
        dataset: torchvision's class.
        root: folder that holds, or will hold, `<class name>/raw/`; a folder one or two levels off is found too.
        download: whether to download missing files.
        nval: validation images, counted before `only` is applied.
        only: classes to keep, renumbered from 0 in their order, or None for all.
        settings: arguments of `ImageData`; images are resized if `image_size` is not 28.
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
        require_count("data.nval", nval)
        self.dataset = dataset
        kind: Any = getattr(dataset, "func", dataset)  # the class, also if `dataset` is a functools.partial
        self.title: str = kind.__name__
        check_only(only, len(kind.classes))
        self.classes = selected_names(kind.classes, only)
        self.only = only
        self.root = expanded(root)
        self.download = download
        self.nval = nval

    def load(self) -> Splits:
        """Return the training, validation and test images; missing files are downloaded if `download` is set."""
        root = self._find_root()
        train, test = self._read(root, train=True), self._read(root, train=False)
        train_rows, val_rows, _ = split(torch.arange(len(train)), self.nval, 0, self.split_seed)
        return select_classes(Splits(train.subset(train_rows), train.subset(val_rows), test), self.only)

    def _find_root(self) -> Path:
        """Return the folder that holds `<class name>/raw`: `root` or one near it; download the files if none does.

        Raises:
            DataError: if the files are directly in `root` or `root/raw`, or cannot be downloaded.
        """
        above = self._above()
        found = [place for place in (self.root, above) if self._holds(place)] or self._below()
        if found:
            if found[0] != self.root:
                log.info("reading %s/raw from %s instead of data.root=%s", self.title, found[0], self.root)
            return found[0]
        for place in (self.root, self.root / "raw"):
            if any(place.glob(FILES)):
                raise DataError(
                    f"{place.absolute()} holds files like those of {self.title}, but outside a folder {self.title}/raw;"
                    f" if they are {self.title}, move them into one, and name its parent folder with data.root=."
                )
        if self.download and _is_free(above / self.title):
            self._fetch(above)
        return above

    def _above(self) -> Path:
        """Return `root` without `<class name>` or `<class name>/raw` at its end."""
        path = self.root.absolute()
        last = path.parts[-2:]
        if last == (self.title, "raw"):
            return path.parent.parent
        return path.parent if last[-1:] == (self.title,) else self.root

    def _below(self) -> list[Path]:
        """Return the subfolders of `root` that hold `<class name>/raw`, if there is exactly one; else []."""
        try:
            found = [place for place in self.root.iterdir() if self._holds(place)]
        except OSError:
            return []
        return found if len(found) == 1 else []

    def _holds(self, place: Path) -> bool:
        """Return whether the folder `place` holds files of the data set in `<class name>/raw`."""
        return any((place / self.title / "raw").glob(FILES))

    def _read(self, root: Path, *, train: bool) -> ImageSet:
        try:
            found = self.dataset(root=root, train=train, download=False)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            where, why = (root / self.title / "raw").absolute(), reason(error).strip(" :.")
            raise DataError(
                f"{self.title} is not in {where} ({why}); name the folder that holds {self.title}/raw with"
                " data.root=, let it be downloaded with data.download=true, or use data=digits, which needs no network."
            ) from error
        return ImageSet(resized(found.data[:, None], self.channels, self.image_size), found.targets.long())

    def _fetch(self, root: Path) -> None:
        """Download the files into `<class name>` in `root`; a failed download leaves no partial files."""
        others = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
        beside = f", beside {len(others)} other files and folders ({printable(others[0])}, …)" if others else ""
        log.info("downloading %s to %s%s", self.title, (root / self.title).absolute(), beside)
        try:
            with made_folder(root), tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
                self.dataset(root=temporary, download=True)
                if _is_free(root / self.title):  # another process may have been faster
                    (Path(temporary) / self.title).rename(root / self.title)
        except (OSError, RuntimeError, ValueError) as error:
            why = reason(error).strip(" :.")
            raise DataError(
                f"{self.title} is not in {root.absolute()} and could not be downloaded ({why}); name a folder that"
                f" holds {self.title}/raw with data.root=, or use data=digits, which needs no network."
            ) from error


def _is_free(path: Path) -> bool:
    """Return whether a path does not exist or is an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))

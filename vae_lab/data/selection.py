"""Restriction of a data set to some classes (setting `data.only`), for one-class models."""

from collections.abc import Sequence

import torch

from vae_lab.data.images import ImageSet, Splits
from vae_lab.errors import DataError


def check_only(only: object, nclasses: int) -> None:
    """Raise ValueError unless `only` is None or a list of class numbers from 0 to `nclasses` - 1."""
    if only is None:
        return
    if isinstance(only, str) or not isinstance(only, Sequence) or not only:
        raise ValueError(f"data.only must be null or a list of at least one class, as [3], not {only}.")
    if not all(isinstance(label, int) and 0 <= label < nclasses for label in only):
        raise ValueError(f"data.only={list(only)}: the classes go from 0 to {nclasses - 1}.")


def selected_names(names: Sequence[str], only: Sequence[int] | None) -> tuple[str, ...]:
    """Return the names of the classes in `only`, by increasing class number; all names if `only` is None."""
    return tuple(names) if only is None else tuple(names[label] for label in sorted(set(only)))


def select_classes(parts: Splits, only: Sequence[int] | None) -> Splits:
    """Return the splits restricted to the classes in `only`, relabelled 0, 1, …; unchanged if `only` is None.

    Raises:
        DataError: if a part has no image of the selected classes.
    """
    if only is None:
        return parts
    labels = torch.tensor(sorted(set(only)))

    def kept(name: str, images: ImageSet) -> ImageSet:
        rows = torch.isin(images.labels, labels).nonzero().flatten()
        if not len(rows):
            raise DataError(f"the {name} part has no image of the classes {list(only)}; name more with data.only=.")
        return images.subset(rows).relabelled(torch.searchsorted(labels, images.labels[rows]))

    return Splits(*(kept(name, images) for name, images in parts._asdict().items()))

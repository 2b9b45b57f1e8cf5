"""Random split of a data set into training, validation and test images."""

import torch
from jaxtyping import Int64
from torch import Tensor

from vae_lab.errors import DataError


def split(
    groups: Int64[Tensor, " n"], nval: int, ntest: int, seed: int
) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " val"], Int64[Tensor, " test"]]:
    """Return three tensors of sorted indices, a random split into training, validation and test images.

    Images of the same group (exact duplicates) are in the same part. Whole groups are assigned in an order drawn from
    `seed`, so the validation and test parts have at least `nval` and `ntest` images.

    Args:
        groups: the group of each image, numbered 0, 1, 2, …
        nval: validation images, at least 1.
        ntest: test images; 0 if the publisher provides a test set.
        seed: of the split.

    Raises:
        DataError: if there are too few images for the three parts.
    """
    ngroups = int(groups.max()) + 1 if len(groups) else 0
    order = torch.randperm(ngroups, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(groups, minlength=ngroups)[order].cumsum(0)
    before = torch.cat([counts.new_zeros(1), counts])[:-1]
    part_of_group = torch.empty(ngroups, dtype=torch.int64)
    val_end = before[before >= nval][:1].sum()  # above nval if the last group has several images
    part_of_group[order] = (before >= nval).long() + (before >= val_end + ntest).long()
    part = part_of_group[groups]
    val, test, train = (torch.nonzero(part == i).flatten() for i in range(3))
    if len(train) == 0 or len(val) < max(nval, 1) or len(test) < ntest:
        raise DataError(
            f"{len(groups)} images ({ngroups} different ones) are too few for {nval} to validate, {ntest} to test and"
            " at least 1 to train on; add images or ask for smaller parts."
        )
    return train, val, test

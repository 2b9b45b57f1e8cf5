"""The class `Sample`, the batch of images and labels that models are trained on."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Sample(NamedTuple):
    """A batch of images in [0, 1] with their class labels; all labels are 0 if the data set has no classes."""

    image: Float[Tensor, "batch channels height width"]
    label: Int64[Tensor, " batch"]


Batch = Sample | Tensor | Sequence[Tensor]
"""A batch of any DataLoader: a `Sample`, an image tensor or an (image, label) pair."""


def as_sample(batch: Batch, *, check: bool) -> Sample:
    """Return a batch of any DataLoader as a `Sample`.

    Args:
        batch: a `Sample`, images (labels become 0), or images and labels.
        check: whether to check the range of all pixels; those of a `Sample` are never checked.

    Raises:
        ValueError: if the batch has another type, or its pixels are not in [0, 1].
    """
    if isinstance(batch, Sample):
        return batch
    from vae_lab.data.images import require_range, scaled  # which import this module

    parts = [batch] if isinstance(batch, Tensor) else list(batch)
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"a batch must be images, or images and labels, not {len(parts)} parts ({kinds}).")
    image = parts[0]
    if check:
        require_range(image)
    if image.dtype == torch.uint8:
        image = scaled(image)
    label = parts[1].long() if len(parts) == 2 else torch.zeros(len(image), dtype=torch.long, device=image.device)
    return Sample(image.contiguous(memory_format=torch.channels_last), label)


def batch_size(batch: Batch) -> int:
    """Return the number of images in a batch, for Lightning's ThroughputMonitor."""
    return len(batch[0]) if isinstance(batch, Sequence) else len(batch)

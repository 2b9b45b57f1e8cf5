"""A set of images held as one uint8 tensor."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vae_lab.data.sample import Sample


class ImageSet:
    """A data set of labelled uint8 images, in memory or memory-mapped; its batches are floats in [0, 1].

    Subsets share the pixels of the set that they were taken from, so the splits take no more memory than the set.

    Args:
        pixels: the images, possibly with images of other subsets.
        labels: the class of each image of this set.
        rows: the row in `pixels` of each image of this set; None if `pixels` are exactly the images of this set.
    """

    def __init__(
        self,
        pixels: UInt8[Tensor, "rows channels height width"],
        labels: Int64[Tensor, " n"],
        rows: Int64[Tensor, " n"] | None = None,
    ) -> None:
        self._pixels = pixels
        self._rows = rows
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """The device of the pixels."""
        return self._pixels.device

    def __getitem__(self, index: int | slice | Sequence[int] | Int64[Tensor, " batch"]) -> Sample:
        """Return the image at an index and its label, without a batch dimension; for several indices, a batch."""
        if not isinstance(index, int):
            return self.__getitems__(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        row = index % len(self)
        image, label = self.__getitems__(slice(row, row + 1))
        return Sample(image[0], label[0])

    def __getitems__(self, indices: Sequence[int] | Int64[Tensor, " batch"] | slice) -> Sample:
        """Return the images at `indices` as a `Sample` of floats in [0, 1], in channels-last memory format."""
        return Sample(scaled(self.pixels(indices)), self.labels[self._on_device(indices)])

    def pixels(
        self, indices: Sequence[int] | Int64[Tensor, " batch"] | slice
    ) -> UInt8[Tensor, "batch channels height width"]:
        """Return the images at `indices` as stored, in uint8."""
        indices = self._on_device(indices)
        return self._pixels[indices if self._rows is None else self._rows[indices]]

    def _on_device(self, indices: Sequence[int] | Int64[Tensor, " some"] | slice) -> Any:  # noqa: ANN401
        """Return indices moved to the device of the pixels, by a transfer that does not block."""
        if isinstance(indices, Tensor) and indices.device != self._pixels.device:
            return indices.to(self._pixels.device, non_blocking=True)
        return indices

    def held_on(self, device: torch.device) -> "ImageSet":
        """Return a copy on `device` if that is a GPU with four times the free memory needed, else the set itself."""
        nbytes = len(self) * self._pixels[0].numel()
        if device.type != "cuda" or nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return ImageSet(self.pixels(slice(None)).to(device), self.labels.to(device))

    def subset(self, indices: Int64[Tensor, " some"]) -> "ImageSet":
        """Return the images at `indices` as an `ImageSet` that shares the pixels of this one."""
        rows = indices if self._rows is None else self._rows[indices]
        return ImageSet(self._pixels, self.labels[indices], rows)

    def relabelled(self, labels: Int64[Tensor, " n"]) -> "ImageSet":
        """Return an `ImageSet` of the same images with the given labels."""
        return ImageSet(self._pixels, labels, torch.arange(len(self)) if self._rows is None else self._rows)

    def digest(self) -> str:
        """Return a hash of the shape, the pixels and the labels of all images, in order."""
        shape = (len(self), *self._pixels.shape[1:])
        digest = hashlib.blake2b(repr(shape).encode(), digest_size=16)
        for start in range(0, len(self), 4096):
            digest.update(self.pixels(slice(start, start + 4096)).contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


def scaled(
    pixels: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Return uint8 pixels divided by 255, as floats in channels-last memory format."""
    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)


def require_range(images: Tensor) -> None:
    """Raise ValueError unless images are [n, channels, height, width] of any size, as floats in [0, 1] or uint8."""
    if images.ndim != 4:
        raise ValueError(f"images must be [n, channels, height, width], not {list(images.shape)}; one image is n = 1.")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"pixels must be floats in [0, 1] or uint8, not {images.dtype}; convert them.")
    if not images.isfinite().all():
        raise ValueError(f"{int((~images.isfinite()).sum())} pixels are not finite; leave those images out.")
    if images.numel() and (images.min() < 0 or images.max() > 1):
        remedy = "map those from -1 to 1 by (x + 1) / 2, " if images.min() >= -1 and images.max() <= 1 else ""
        raise ValueError(
            f"pixels must lie in [0, 1], not {images.min():.3g} to {images.max():.3g}; {remedy}divide those from 0 to"
            " 255 by 255, or pass them as uint8."
        )


class Splits(NamedTuple):
    """Training, validation and test images, without an image in common."""

    train: ImageSet
    val: ImageSet
    test: ImageSet

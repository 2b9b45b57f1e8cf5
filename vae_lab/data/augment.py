"""Random flips and shifts of training images; off by default."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vae_lab.errors import require_count
from vae_lab.system.randomness import counter_seed

Images = Float[Tensor, "batch channels height width"]


class Augment:
    """A callable that flips and shifts the images of a batch at random; equal counters give equal results.

    Args:
        flip: whether to mirror each image left to right with probability 1/2.
        shift: maximum shift in pixels, vertically and horizontally; edges are filled by reflection. This equals the
            random crop of a padded image.
    """

    def __init__(self, *, flip: bool, shift: int) -> None:
        if not isinstance(flip, bool):
            raise ValueError(f"data.augment.flip must be true or false, not {flip}.")
        require_count("data.augment.shift", shift, 0)
        self.flip = flip
        self.shift = shift

    def __call__(self, images: Images, *counters: int | str) -> Images:
        """Return the images randomly flipped and shifted, seeded by a hash of `counters` (integers and strings)."""
        generator = torch.Generator().manual_seed(counter_seed("augment", *counters))
        n = len(images)
        flips = torch.rand(n, generator=generator) < 0.5
        moves = torch.randint(-self.shift, self.shift + 1, (2, n), generator=generator)
        if self.flip:
            flips = flips.to(images.device, non_blocking=True)[:, None, None, None]
            images = torch.where(flips, images.flip(-1), images)
        if self.shift:
            images = shifted(images, moves.to(images.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last)


def read_augment(settings: Mapping[str, object] | None) -> Augment | None:
    """Return the `Augment` that the setting `data.augment` describes, or None if it changes no image.

    Raises:
        ValueError: if a key is unknown or a value is invalid.
    """
    values: dict[str, object] = {"flip": False, "shift": 0} | dict(settings or {})
    unknown = sorted(set(values) - {"flip", "shift"})
    if unknown:
        raise ValueError(f"data.augment has the keys flip and shift, not {', '.join(unknown)}.")
    augment = Augment(**values)  # pyright: ignore[reportArgumentType]
    return augment if augment.flip or augment.shift else None


def shifted(images: Images, moves: Int64[Tensor, "2 batch"]) -> Images:
    """Return each image moved down and right by its two pixel offsets in `moves`, with edges filled by reflection."""
    for dim, move in zip((2, 3), moves, strict=True):
        size = images.shape[dim]
        places = reflected(torch.arange(size, device=images.device) - move[:, None], size)
        places = places[:, None, :, None] if dim == 2 else places[:, None, None, :]
        images = images.gather(dim, places.expand_as(images))
    return images


def reflected(places: Int64[Tensor, "batch size"], size: int) -> Int64[Tensor, "batch size"]:
    """Return pixel indices reflected at 0 and size - 1, as in reflection padding, which does not repeat the ends."""
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else places * 0

"""Random flips and shifts of training images; off by default."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vae_lab.errors import require_count
from vae_lab.system.randomness import counter_seed

Images = Float[Tensor, "batch channels height width"]


class Augment:
    """Flips and shifts of a batch, drawn from its counters alone, on the device where the batch lies.

    Args:
        flip: whether each image is mirrored left to right with probability 1/2.
        shift: pixels by which each image is moved at most, up or down and to either side; what comes in at an edge is
            the picture reflected there. That is the random crop of a padded image.
    """

    def __init__(self, *, flip: bool, shift: int) -> None:
        if not isinstance(flip, bool):
            raise ValueError(f"data.augment.flip must be true or false, not {flip}.")
        require_count("data.augment.shift", shift, 0)
        self.flip = flip
        self.shift = shift

    def __call__(self, images: Images, *counters: int | str) -> Images:
        """Return the images, changed as the counters say."""
        generator = torch.Generator().manual_seed(counter_seed("augment", *counters))
        n = len(images)
        flips = torch.rand(n, generator=generator) < 0.5
        moves = torch.randint(-self.shift, self.shift + 1, (2, n), generator=generator)
        if self.flip:
            images = flipped(images, flips.to(images.device, non_blocking=True))
        if self.shift:
            images = shifted(images, moves.to(images.device, non_blocking=True))
        return images.contiguous(memory_format=torch.channels_last)


def read_augment(settings: Mapping[str, object] | None) -> Augment | None:
    """Return the augmentation that `data.augment` asks for, or None if it asks for none.

    Raises:
        ValueError: if it is no such setting.
    """
    asked: dict[str, object] = {"flip": False, "shift": 0} | dict(settings or {})
    if set(asked) != {"flip", "shift"}:
        raise ValueError(f"data.augment knows flip and shift, not {', '.join(sorted(set(asked) - {'flip', 'shift'}))}.")
    made = Augment(**asked)  # pyright: ignore[reportArgumentType]
    return made if made.flip or made.shift else None


def flipped(images: Images, flips: Bool[Tensor, " batch"]) -> Images:
    """Return the images, mirrored left to right where `flips` says so."""
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def shifted(images: Images, moves: Int64[Tensor, "2 batch"]) -> Images:
    """Return each image moved down and to the right by its two numbers, reflected at the edges."""
    for dim, move in zip((2, 3), moves, strict=True):
        size = images.shape[dim]
        places = reflected(torch.arange(size, device=images.device) - move[:, None], size)
        places = places[:, None, :, None] if dim == 2 else places[:, None, None, :]
        images = images.gather(dim, places.expand_as(images))
    return images


def reflected(places: Int64[Tensor, "batch size"], size: int) -> Int64[Tensor, "batch size"]:
    """Return places of a line that goes back and forth between 0 and size - 1, the ends counted once."""
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else places * 0

"""Batches in an order that is a function of (seed, epoch), so that a resumed run repeats it."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import SequentialSampler

from vae_lab.data.binarize import binarized
from vae_lab.data.images import ImageSet, scaled
from vae_lab.data.sample import Sample
from vae_lab.system.randomness import counter_seed


class EpochCounter:
    """A stand-in for a loader's sampler that stores the epoch; Lightning calls its `set_epoch` before each epoch."""

    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Store the number of the next epoch."""
        self.epoch = epoch


class Batches:
    """An iterable of training batches, one epoch per iteration; the order depends only on (seed, epoch).

    The images form a stream of complete permutations of the set, and global batch b takes the positions b * size to
    (b + 1) * size of the stream. Every batch is therefore full, and a set may be smaller than a batch. An epoch has as
    many batches as fit into the set, and at least one. With `redraw`, the pixels of each batch are binarized anew.

    Lightning asks for the iterator before it sets the epoch, and does not restore the position of a loader after the
    end of an epoch. The epoch and the position are therefore read when the first batch is taken.

    Args:
        images: the training images.
        batch_size: images per batch and process.
        seed: of the order.
        rank: of this process.
        world_size: number of processes that share a global batch.
        redraw: whether to binarize each batch anew.
        balance: whether each class is drawn equally often. The stream then takes the classes in turn, each from
            permutations of its own images; a pass is still as long as the set.
        repeat: whether every epoch repeats the batches of the first one, for `trainer.overfit_batches`.
        first: returns how many batches of the current epoch have been trained on.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        redraw: bool = False,
        balance: bool = False,
        repeat: bool = False,
        first: Callable[[], int] = int,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.redraw = redraw
        classes = images.labels.unique() if balance else ()
        self.members = [torch.nonzero(images.labels == k)[:, 0].cpu() for k in classes]
        self.sampler: SequentialSampler | EpochCounter = SequentialSampler(images) if repeat else EpochCounter()  # pyright: ignore[reportArgumentType]
        self.first = first
        self._passes: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return max(1, len(self.images) // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Sample]:
        """Yield this rank's share of each remaining batch of the current epoch."""
        epoch = self.sampler.epoch if isinstance(self.sampler, EpochCounter) else 0
        for batch in range(self.first(), len(self)):
            yield self[epoch * len(self) + batch]

    def __getitem__(self, batch: int) -> Sample:
        """Return this rank's share of global batch number `batch`, counted over all epochs, as a `Sample`."""
        indices = self.indices(batch)
        if not self.redraw:
            return self.images.__getitems__(indices)
        drawn = binarized(self.images.pixels(indices), self.seed, batch, self.rank)
        return Sample(scaled(drawn), self.images.labels[indices])

    def state_dict(self) -> dict[str, int]:
        """Return an empty dict, because the position in the epoch comes from `first`.

        Lightning warns if this method is missing.
        """
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing, because `state_dict` is empty."""

    def indices(self, batch: int) -> Int64[Tensor, " batch"]:
        """Return the image indices of this rank's share of global batch number `batch`, counted over all epochs."""
        size = self.batch_size * self.world_size
        first, last = batch * size // len(self.images), ((batch + 1) * size - 1) // len(self.images)
        passes = [self._permutation(i) for i in range(first, last + 1)]
        places = passes[0] if first == last else torch.cat(passes)
        offset = batch * size - first * len(self.images) + self.rank * self.batch_size
        return places[offset : offset + self.batch_size]

    def _permutation(self, npass: int) -> Int64[Tensor, " n"]:
        """Return the image indices of pass number `npass` over the set, a permutation if not balanced; it is cached.

        It is stored on the device of the pixels, so that batches of a set on a GPU need no transfer.
        """
        if npass not in self._passes:
            self._passes = {i: order for i, order in self._passes.items() if i >= npass - 1}
            order = self._balanced(npass) if self.members else shuffled(len(self.images), self.seed, npass)
            self._passes[npass] = order.to(self.images.device, non_blocking=True)
        return self._passes[npass]

    def _balanced(self, npass: int) -> Int64[Tensor, " n"]:
        """Return the indices of a pass in which the classes take turns."""
        positions = torch.arange(npass * len(self.images), (npass + 1) * len(self.images))
        order = torch.empty_like(positions)
        for k, members in enumerate(self.members):
            mine = positions % len(self.members) == k
            turns = positions[mine] // len(self.members)
            first, last = (int(turns[i]) // len(members) for i in (0, -1))
            passes = [members[shuffled(len(members), self.seed, k, i)] for i in range(first, last + 1)]
            order[mine] = torch.cat(passes)[turns - first * len(members)]
        return order


def shuffled(n: int, *counters: int) -> Int64[Tensor, " n"]:
    """Return a permutation of n numbers that depends on the counters alone."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(counter_seed("order", *counters)))


class OrderedBatches:
    """An iterable of evaluation batches that cover a set once, in its stored order; the last may be smaller.

    Each process takes every `world_size`-th batch. Batches are smaller if a process would otherwise have none.

    Raises:
        ValueError: if there are more processes than images.
    """

    def __init__(self, images: ImageSet, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.images = images
        if len(images) < world_size:
            raise ValueError(f"{len(images)} images cannot be shared by {world_size} processes; start fewer.")
        self.batch_size: int = min(batch_size, len(images) // world_size)
        self.starts: range = range(0, len(images), self.batch_size)[rank::world_size]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Sample]:
        for start in self.starts:
            yield self.images.__getitems__(slice(start, start + self.batch_size))

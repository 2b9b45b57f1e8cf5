"""Order, coverage and slicing of batches, and the split they come from."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import SequentialSampler

from vae_lab.data.batches import Batches, EpochCounter, OrderedBatches
from vae_lab.data.images import ImageSet
from vae_lab.data.sample import Sample
from vae_lab.data.splits import split
from vae_lab.errors import DataError


def numbered(n: int) -> ImageSet:
    """Images whose label is their number."""
    return ImageSet(torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2), torch.arange(n))


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 10), (7, 1), (5, 4), (64, 8)])
def test_every_image_comes_once_in_each_pass(n: int, size: int) -> None:
    batches = Batches(numbered(n), size, seed=0)
    seen = torch.cat([batches.indices(b) for b in range(3 * n)])
    assert len(seen) == 3 * n * size
    passes = seen[: len(seen) // n * n].view(-1, n)
    assert (passes.sort().values == torch.arange(n)).all()
    assert n < 5 or not torch.equal(passes[0], passes[1])


def test_the_order_follows_from_seed_and_number_alone() -> None:
    images = numbered(50)
    order = [Batches(images, 8, seed=1).indices(b) for b in range(40)]
    batches = Batches(images, 8, seed=1)
    assert torch.equal(next(iter(batches)).label, order[0])
    for number in (39, 7, 0, 6, 25, 26):
        assert torch.equal(batches[number].label, order[number])
    assert not torch.equal(order[0], Batches(images, 8, seed=2).indices(0))


def test_an_epoch_is_as_many_batches_as_fit_into_the_set() -> None:
    images = numbered(50)
    loader = Batches(images, 8, seed=1)
    whole = [sample.label for epoch in range(3) for sample in epoch_of(loader, epoch)]
    assert len(loader) == 6
    assert all(label.equal(loader.indices(number)) for number, label in enumerate(whole))
    assert len(list(epoch_of(Batches(numbered(5), 8, seed=1), 0))) == 1


def test_a_loader_goes_on_in_an_epoch_and_repeats_the_first_where_asked() -> None:
    images, done = numbered(50), 0
    loader = Batches(images, 8, seed=1, first=lambda: done)
    epoch = iter(loader)  # before the epoch and the place in it are known, as Lightning asks for it
    assert isinstance(loader.sampler, EpochCounter)
    loader.sampler.set_epoch(2)
    done = 4
    assert [sample.label.tolist() for sample in epoch] == [loader.indices(16).tolist(), loader.indices(17).tolist()]
    again = Batches(images, 8, seed=1, repeat=True)
    assert isinstance(again.sampler, SequentialSampler)
    assert [sample.label.tolist() for sample in again] == [again.indices(number).tolist() for number in range(6)]


@pytest.mark.parametrize("counts", [(40, 7), (3, 20, 1), (5, 5)])
def test_balanced_classes_are_drawn_equally_often_and_all_images_come(counts: tuple[int, ...]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)) + 2, torch.tensor(counts))
    images = ImageSet(numbered(len(labels)).pixels(slice(None)), labels)
    batches = Batches(images, 6, seed=0, balance=True)
    numbers = range(60)
    seen = torch.cat([batches.indices(number) for number in numbers])
    assert all((labels[batches.indices(b)] == k).sum() == 6 // len(counts) for b in numbers for k in labels.unique())
    for k, count in enumerate(counts):
        drawn = seen[labels[seen] == k + 2]
        whole = drawn[: len(drawn) // count * count].view(-1, count).sort().values
        assert (whole == torch.nonzero(labels == k + 2)[:, 0]).all()
    later = Batches(images, 6, seed=0, balance=True)
    assert all(later.indices(number).equal(batches.indices(number)) for number in (59, 3))
    shares = [Batches(images, 3, seed=0, balance=True, rank=rank, world_size=2).indices(9) for rank in (0, 1)]
    assert torch.cat(shares).equal(batches.indices(9))


def epoch_of(loader: Batches, epoch: int) -> Iterator[Sample]:
    """The batches of an epoch."""
    assert isinstance(loader.sampler, EpochCounter)
    loader.sampler.set_epoch(epoch)
    return iter(loader)


def test_ranks_share_the_global_batch() -> None:
    images = numbered(50)
    alone = Batches(images, 8, seed=1)
    pair = [Batches(images, 4, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for b in range(30):
        assert torch.equal(torch.cat([part.indices(b) for part in pair]), alone.indices(b))


def test_the_order_lies_where_the_pixels_do_and_moves_there_once_for_each_pass() -> None:
    images = numbered(10)
    far = ImageSet(images.pixels(slice(None)).to("meta"), images.labels.to("meta"))
    batches = Batches(far, 4, seed=0)
    assert [batches.indices(b).device.type for b in (0, 1, 2)] == ["meta"] * 3
    order = batches._permutation(0)
    assert batches._permutation(0) is order


def test_ordered_batches_are_one_pass() -> None:
    batches = OrderedBatches(numbered(10), 4)
    assert len(batches) == 3
    parts = list(batches)
    assert [len(part.label) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.label for part in parts]), torch.arange(10))


def test_pixels_are_scaled_to_one() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    image = ImageSet(pixels, torch.zeros(1, dtype=torch.int64)).__getitems__(slice(1)).image
    torch.testing.assert_close(image.flatten(), torch.arange(256) / 255)


def test_a_subset_knows_its_rows_and_its_digest_is_that_of_a_copy() -> None:
    whole = numbered(20)
    part = whole.subset(torch.tensor([3, 5, 7, 11])).subset(torch.tensor([1, 3]))
    assert part.__getitems__(slice(None)).label.tolist() == [5, 11]
    copy = ImageSet(part.pixels(slice(None)).clone(), part.labels.clone())
    assert part.digest() == copy.digest() != whole.digest()


@pytest.mark.parametrize("seed", range(5))
def test_parts_never_overlap_and_groups_stay_together(seed: int) -> None:
    groups = torch.tensor([0, 1, 2, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9])
    parts = split(groups, 3, 2, seed)
    assert torch.cat(parts).sort().values.tolist() == list(range(13))
    assert len(parts[1]) >= 3
    assert len(parts[2]) >= 2
    owners = [set(groups[part].tolist()) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_a_split_follows_from_its_seed() -> None:
    groups = torch.arange(100)
    again = zip(split(groups, 10, 10, 0), split(groups, 10, 10, 0), strict=True)
    assert all(torch.equal(a, b) for a, b in again)
    assert not torch.equal(split(groups, 10, 10, 0)[1], split(groups, 10, 10, 1)[1])


@pytest.mark.parametrize("groups", [[], [0], [0, 0, 0, 0], [0, 1]])
def test_too_few_images_are_refused(groups: list[int]) -> None:
    with pytest.raises(DataError, match=f"{len(groups)} images"):
        split(torch.tensor(groups, dtype=torch.int64), 1, 1, 0)

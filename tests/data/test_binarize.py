"""Zeros and ones from grey pixels: how often, when anew, and the same again in a resumed run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from vae_lab.data.binarize import binarized
from vae_lab.data.datamodule import ImageData
from vae_lab.data.synthetic import SyntheticBlobs
from vae_lab.training.run import train_run

SETTINGS = {"nimages": 64, "channels": 1, "image_size": 8, "batch_size": 8, "eval_batch_size": 8, "split_seed": 0}


def blobs(binarize: str | None, seed: int = 0, split_seed: int = 0) -> SyntheticBlobs:
    return SyntheticBlobs(binarize=binarize, seed=seed, **(SETTINGS | {"split_seed": split_seed}))


def test_ones_are_as_frequent_as_the_pixel_is_bright() -> None:
    grey = torch.arange(256, dtype=torch.uint8).repeat(20_000, 1)
    ones = binarized(grey, 0)
    assert set(ones.unique().tolist()) == {0, 255}
    share = (ones == 255).double().mean(0)
    wanted = torch.arange(256) / 255
    assert (share - wanted).abs().max() < 5 * 0.5 / 20_000**0.5
    assert (share[0], share[255]) == (0, 1)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_every_part_is_binary_and_follows_from_its_seed(binarize: str) -> None:
    data, again, other = blobs(binarize), blobs(binarize), blobs(binarize, split_seed=1)
    for batches in (data.val_dataloader(), data.test_dataloader(), [data.train_dataloader()[b] for b in range(5)]):
        for sample in batches:
            assert set(sample.image.unique().tolist()) == {0, 1}
    for name in ("val", "test"):
        assert getattr(data.splits, name).digest() == getattr(again.splits, name).digest()
        assert getattr(data.splits, name).digest() == getattr(blobs("static", seed=5).splits, name).digest()
        assert getattr(data.splits, name).digest() != getattr(other.splits, name).digest()


@pytest.mark.parametrize(("binarize", "same"), [("static", True), ("dynamic", False)])
def test_an_image_is_drawn_anew_in_each_pass_only_if_asked(binarize: str, same: bool) -> None:
    data = blobs(binarize)
    batches, n = data.train_dataloader(), len(data.splits.train)
    seen: dict[int, list[torch.Tensor]] = {i: [] for i in range(n)}
    for b in range(3 * n // 8):
        for index, image in zip(batches.indices(b).tolist(), batches[b].image, strict=True):
            seen[index].append(image)
    assert all(len(images) == 3 for images in seen.values())
    assert all(torch.equal(images[0], images[1]) == same for images in seen.values())
    grey = blobs(None).splits.train.__getitems__(slice(None)).image
    drawn = torch.stack([torch.stack(images).mean(0) for images in seen.values()])
    assert (drawn.mean() - grey.mean()).abs() < 0.02


def test_batches_are_drawn_from_seed_and_number_alone() -> None:
    batches = blobs("dynamic").train_dataloader()
    order = [batches[b].image for b in range(12)]
    for b in (11, 3, 0, 7):
        assert torch.equal(blobs("dynamic").train_dataloader()[b].image, order[b])
    assert not torch.equal(blobs("dynamic", seed=1).train_dataloader()[0].image, order[0])


def test_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.binarize must be null, static or dynamic, not often"):
        blobs("often")


def test_a_resumed_run_sees_the_same_draws(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    settings = ("data.binarize=dynamic", "likelihood=bernoulli", "trainer.val_check_interval=2")
    whole = train_run(config(*settings, "trainer.max_steps=4", folder="whole"))
    train_run(config(*settings, "trainer.max_steps=2", folder="half"))
    rest = train_run(config(*settings, "trainer.max_steps=4", f"resume={tmp_path / 'half'}", folder="rest"))
    assert rest["test/neg_elbo"] == whole["test/neg_elbo"]


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_mnist_is_binary(shared: Path, config: Callable[..., DictConfig], binarize: str) -> None:
    chosen = config("data=mnist_binary", f"data.binarize={binarize}", f"data.root={shared}").data
    data: ImageData = instantiate(chosen, _convert_="all")
    assert [len(part) for part in data.splits] == [55_000, 5_000, 10_000]
    sample = data.train_dataloader()[0]
    assert set(sample.image.unique().tolist()) == {0, 1}
    test = data.splits.test.__getitems__(slice(None)).image
    assert set(test.unique().tolist()) == {0, 1}
    assert test.mean().item() == pytest.approx(0.1325, abs=0.001)  # the mean grey value of MNIST's test part

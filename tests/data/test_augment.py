"""Augmentation: what it does to a batch, from which numbers, and to which batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from vae_lab.data.augment import Augment, read_augment, reflected
from vae_lab.data.images import ImageSet
from vae_lab.data.sample import Sample
from vae_lab.evaluation.metrics.memorisation import copy_thresholds, memorisation
from vae_lab.training.run import build_parts

IMAGES = torch.rand(64, 3, 6, 5, generator=torch.Generator().manual_seed(0))


def test_each_image_is_mirrored_or_not() -> None:
    found = Augment(flip=True, shift=0)(IMAGES, 0, 1)
    as_it_is = [bool(one.equal(was)) for one, was in zip(found, IMAGES, strict=True)]
    mirrored = [bool(one.equal(was.flip(-1))) for one, was in zip(found, IMAGES, strict=True)]
    assert all(one != other for one, other in zip(as_it_is, mirrored, strict=True))
    assert 20 < sum(mirrored) < 44


def test_each_image_is_a_crop_of_itself_padded_by_reflection() -> None:
    padded = torch.nn.functional.pad(IMAGES, (2, 2, 2, 2), mode="reflect")
    crops = [padded[:, :, y : y + 6, x : x + 5] for y in range(5) for x in range(5)]
    found = Augment(flip=False, shift=2)(IMAGES, 0, 1)
    places = [[i for i, crop in enumerate(crops) if crop[n].equal(found[n])] for n in range(len(IMAGES))]
    assert all(len(place) == 1 for place in places)
    assert len({place[0] for place in places}) > 15, "all moves occur"


def test_a_line_of_one_pixel_is_reflected_onto_itself() -> None:
    assert reflected(torch.tensor([[-3, 0, 4]]), 1).tolist() == [[0, 0, 0]]


def test_it_depends_on_its_counters_alone() -> None:
    augment = Augment(flip=True, shift=1)
    torch.manual_seed(0)
    first = augment(IMAGES, 0, 1)
    torch.manual_seed(1)
    assert augment(IMAGES, 0, 1).equal(first)
    assert not augment(IMAGES, 0, 2).equal(first)


BAD = {
    "shift": ({"shift": -1}, r"data\.augment\.shift must be a whole number"),
    "another": ({"rotate": 3}, r"data\.augment has the keys flip and shift, not rotate"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_setting_is_named(name: str) -> None:
    settings, said = BAD[name]
    with pytest.raises(ValueError, match=said):
        read_augment(settings)


class Keep(Callback):
    """Keeps the images of each batch."""

    def __init__(self) -> None:
        self.train: list[torch.Tensor] = []
        self.val: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Sample, batch_idx: int) -> None:
        self.train.append(batch.image)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Sample, *_: int) -> None:
        self.val.append(batch.image)


class Somebodys(LightningModule):
    """Somebody's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(256, 1)

    def training_step(self, batch: Sample, batch_idx: int) -> torch.Tensor:
        return self.net(batch.image.flatten(1)).square().mean()

    def validation_step(self, batch: Sample, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("own", [False, True], ids=["our task", "somebody's module"])
def test_training_batches_alone_are_augmented_and_anew_in_each_epoch(
    own: bool, config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    seen = {}
    for name, augment in (("plain", ()), ("augmented", ("data.augment.flip=true", "data.augment.shift=2"))):
        limits = ("trainer.max_steps=-1", "trainer.max_epochs=2", "trainer.val_check_interval=6")
        data, task, trainer = build_parts(config("model=mlp", "~callbacks.gallery", *limits, *augment, folder=name), {})
        seen[name] = keep = Keep()
        if own:
            settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
            trainer = Trainer(max_epochs=2, log_every_n_steps=1, enable_checkpointing=False, callbacks=[], **settings)
        trainer.callbacks.append(keep)  # pyright: ignore[reportAttributeAccessIssue]
        trainer.fit(Somebodys() if own else task, datamodule=data)
    plain, augmented = seen["plain"], seen["augmented"]
    assert len(plain.train) == len(augmented.train) == 12
    assert not any(one.equal(other) for one, other in zip(plain.train, augmented.train, strict=True))
    assert all(one.equal(other) for one, other in zip(plain.val, augmented.val, strict=True))
    settings = Augment(flip=True, shift=2)
    assert augmented.train[7].equal(settings(plain.train[7], 0, 1, 1, 0)), "seed, epoch, batch and rank"


def test_a_mirrored_training_image_is_a_copy_where_training_has_seen_both() -> None:
    pixels = torch.randint(0, 256, (300, 1, 8, 8), generator=torch.Generator().manual_seed(1)).byte()
    training = ImageSet(pixels, torch.zeros(300, dtype=torch.long))
    samples = pixels[:50].flip(-1).float() / 255
    for flips, share in ((False, 0.0), (True, 1.0)):
        usual = copy_thresholds(training, nreference=100, side=8, seed=0, flips=flips)
        found = memorisation(samples, training, usual, side=8, flips=flips)
        assert found.share == pytest.approx(share, abs=0.06)
    assert found.indices.tolist() == list(range(50))
    assert found.distances.max() == 0

"""The base class of all data sets, a LightningDataModule."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from lightning import LightningDataModule

from vae_lab.data.augment import Augment, read_augment
from vae_lab.data.batches import Batches, OrderedBatches
from vae_lab.data.binarize import WAYS, static_splits
from vae_lab.data.images import Splits
from vae_lab.data.sample import Sample
from vae_lab.data.survey import Survey, survey_parts
from vae_lab.errors import require_count

log = logging.getLogger(__name__)


class ImageData(LightningDataModule, ABC):
    """A LightningDataModule of training, validation and test images that are held as uint8.

    Args:
        channels: 1 for grey, 3 for colour.
        image_size: height and width in pixels.
        batch_size: images per training batch and rank.
        eval_batch_size: images per validation or test batch.
        seed: of the order of the training batches.
        split_seed: of the split; separate from `seed`, so that runs with different seeds have the same test images.
        binarize: None keeps grey pixels; `static` binarizes all images once, from `split_seed`; `dynamic` binarizes
            training images anew for each batch, from `seed`, and validation and test images once.
        balance: whether training batches draw each class equally often; see `Batches`.
        augment: `flip` and `shift` of training batches, see `Augment`; None for no augmentation.

    Attributes:
        classes: class names in the order of the labels, set by `load`; empty without classes.
    """

    classes: tuple[str, ...] = ()
    _survey: Survey | None = None

    def __init__(
        self,
        *,
        channels: int,
        image_size: int,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        split_seed: int,
        binarize: str | None = None,
        balance: bool = False,
        augment: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_count("data.image_size", image_size)
        require_count("data.batch_size", batch_size)
        require_count("data.eval_batch_size", eval_batch_size)
        for name, value in (("seed", seed), ("split_seed", split_seed)):
            if not isinstance(value, int):
                raise ValueError(f"data.{name} must be a whole number, not {value}.")
        if channels not in (1, 3):
            raise ValueError(f"data.channels must be 1 (grey) or 3 (colour), not {channels}.")
        if binarize not in WAYS:
            raise ValueError(f"data.binarize must be null, static or dynamic, not {binarize}.")
        self.channels = channels
        self.image_size = image_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.split_seed = split_seed
        self.binarize = binarize
        self.balance = balance
        self.augment: Augment | None = read_augment(augment)

    @abstractmethod
    def load(self) -> Splits:
        """Return the decoded training, validation and test images; called once.

        Raises:
            DataError: if the images are missing, unreadable or too few.
        """

    @cached_property
    def raw_splits(self) -> Splits:
        """The training, validation and test images before binarization, loaded at the first use."""
        parts = self.load()
        if self.batch_size > len(parts.train):
            line = "data.batch_size=%d is larger than the training part of %d images: each batch repeats images"
            log.warning(line, self.batch_size, len(parts.train))
        if self.balance and len(parts.train.labels.unique()) < 2:
            raise ValueError("data.balance=true: the training images are all of one class; type data.balance=false.")
        return parts

    @property
    def survey(self) -> Survey:
        """The `Survey` of the images: counts, sizes, duplicates and warnings, for the log and summary.json."""
        parts = self.raw_splits
        return self._survey or survey_parts(parts, self.classes)

    @cached_property
    def splits(self) -> Splits:
        """The training, validation and test images of a training run, binarized if `binarize` is set.

        If it is "dynamic", the training images are grey here, and `Batches` binarizes them anew for each batch.
        """
        fixed = {None: (), "static": Splits._fields, "dynamic": ("val", "test")}[self.binarize]
        return static_splits(self.raw_splits, *fixed, seed=self.split_seed)

    @cached_property
    def eval_splits(self) -> Splits:
        """The training, validation and test images for evaluation, each binarized once if `binarize` is set."""
        names = () if self.binarize is None else Splits._fields
        return static_splits(self.raw_splits, *names, seed=self.split_seed)

    @cached_property
    def fingerprint(self) -> dict[str, int | str]:
        """The number of images in each split, and a hash of their pixels and labels."""
        digests = {f"{name}_digest": part.digest() for name, part in self.splits._asdict().items()}
        return {f"n{name}": len(part) for name, part in self.splits._asdict().items()} | digests

    def setup(self, stage: str) -> None:
        """Load and binarize the splits, before the first batch."""
        _ = self.splits

    def train_dataloader(self) -> Batches:
        """Return the loader of this rank's training batches."""
        rank, world_size = self._share()
        trainer, images = self.trainer, self.splits.train
        if trainer is not None and self.binarize != "dynamic":  # dynamic binarization draws on the CPU
            images = images.held_on(trainer.strategy.root_device)
        return Batches(
            images,
            self.batch_size,
            self.seed,
            rank=rank,
            world_size=world_size,
            redraw=self.binarize == "dynamic",
            balance=self.balance,
            repeat=bool(getattr(trainer, "overfit_batches", 0)),
            first=int if trainer is None else lambda: trainer.fit_loop.batch_idx + 1,
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        """Return a training batch after augmentation, computed on its device; other batches are unchanged."""
        trainer = self.trainer
        if self.augment is None or trainer is None or not trainer.training or not isinstance(batch, Sample):
            return batch
        place = (self.seed, trainer.current_epoch, trainer.fit_loop.batch_idx + 1, trainer.global_rank)
        return batch._replace(image=self.augment(batch.image, *place))

    def val_dataloader(self) -> OrderedBatches:
        """Return the loader of this rank's validation batches, for one pass over the validation images."""
        return OrderedBatches(self.splits.val, self.eval_batch_size, *self._share())

    def test_dataloader(self) -> OrderedBatches:
        """Return the loader of this rank's test batches, for one pass over the test images."""
        return OrderedBatches(self.splits.test, self.eval_batch_size, *self._share())

    def predict_dataloader(self) -> OrderedBatches:
        """Return the loader of the test images, as `test_dataloader` does."""
        return self.test_dataloader()

    def _share(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes; (0, 1) without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

"""Sets of images to compare: a folder of image files, the samples of a run, or its data set."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from vae_lab.data.files.cache import Rules, decode_files
from vae_lab.data.files.decode import PIXEL_CEILING
from vae_lab.data.files.listing import Bad, list_files, printable, report_passed
from vae_lab.data.grids import to_uint8
from vae_lab.data.images import ImageSet
from vae_lab.errors import DataError
from vae_lab.evaluation.protocol import FEWEST, load_finite_model, networks_of_training
from vae_lab.runs.inference import decode_samples
from vae_lab.runs.load import load_data
from vae_lab.runs.packages import Trust
from vae_lab.system.folders import expanded

BACKGROUND = 255
"""Grey level of the background of transparent images."""


class Source(NamedTuple):
    """Colour images of one size from a folder or a run.

    Attributes:
        images: the images; grey ones are repeated in three channels.
        bad: the files that are no usable images, with reasons.
        trained_against: the pretrained networks whose features the training of the run used.
    """

    images: ImageSet
    bad: list[Bad]
    trained_against: list[str]


class Place(NamedTuple):
    """Where a set of images comes from.

    Attributes:
        setting: the setting that names it, for messages.
        path: a folder of images, a run folder or a checkpoint file.
        checkpoint: "best" or "last", of a run.
        root: the folder that holds the images of a run now, or None.
        trust: packages, besides vae_lab, whose classes a run may use.
    """

    setting: str
    path: Path
    checkpoint: str
    root: str | None
    trust: Trust

    @property
    def is_run(self) -> bool:
        """Whether the path is a run folder or a checkpoint file."""
        return self.path.suffix == ".ckpt" or (self.path / "checkpoints").is_dir()


def read_folder(place: Place, image_size: int, own: Collection[Path]) -> Source:
    """Return the images below a folder, cropped to the central square and resized by Lanczos.

    Args:
        place: the folder.
        image_size: height and width of the images in pixels.
        own: files that the command itself writes, which are left out.

    Raises:
        DataError: if the folder cannot be read, or holds fewer than 4 images.
    """
    root = expanded(place.path)
    named = f"{place.setting}={printable(str(place.path))}"
    if not root.is_dir():
        finding = "is not a folder (unpack an archive first)" if root.exists() else "does not exist"
        raise DataError(f"{named} {finding}; name a folder of images, or a run folder.")
    try:
        listing = list_files(root)
    except OSError as error:
        raise DataError(f"{named} cannot be read ({error.strerror or error}); name another folder.") from error
    report_passed(root, listing)
    written = {os.path.realpath(path) for path in own}
    files = [file for file in listing.files if os.path.realpath(root / file.path) not in written]
    decoded = decode_files(root, files, Rules(3, image_size, PIXEL_CEILING, BACKGROUND), lambda _: None)
    bad = sorted(listing.unreadable + decoded.bad, key=lambda one: os.fsencode(one.path))
    if len(decoded.pixels) < FEWEST:
        first = f"; the first bad one is {printable(bad[0].path)}: {bad[0].reason}" if bad else ""
        raise DataError(
            f"{named} holds {len(decoded.pixels)} usable images of {len(files)} files{first}; name a folder with at"
            f" least {FEWEST}."
        )
    return Source(unlabelled(decoded.pixels), bad, [])


def read_samples(place: Place, n: int, seed: int, device: torch.device) -> Source:
    """Return images decoded from the prior of a run: those of `evaluate` for the same number and seed."""
    model = load_finite_model(place.path, place.checkpoint, place.trust).to(device)
    labels = torch.zeros(1, dtype=torch.int64)
    if model.nclasses:
        labels = load_data(place.path, place.checkpoint, root=place.root, trust=place.trust).eval_splits.test.labels
    samples = decode_samples(model, model.prior(), n, labels=labels, name="prior", seed=seed)
    return Source(unlabelled(to_uint8(samples)), [], networks_of_training(place.path, place.checkpoint))


def read_data(place: Place) -> Source:
    """Return all images of the data set of a run."""
    parts = load_data(place.path, place.checkpoint, root=place.root, trust=place.trust).raw_splits
    return Source(unlabelled(torch.cat([part.pixels(slice(None)) for part in parts])), [], [])


def unlabelled(pixels: UInt8[Tensor, "n channels height width"]) -> ImageSet:
    """Return images in three channels, of class 0."""
    return ImageSet(pixels.expand(-1, 3, -1, -1), torch.zeros(len(pixels), dtype=torch.int64))

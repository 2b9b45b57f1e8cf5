"""A data set that is read from a folder of image files."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from vae_lab.data.datamodule import ImageData
from vae_lab.data.files.cache import Decoded, Rules, decode_files, decode_files_mapped
from vae_lab.data.files.decode import PIXEL_CEILING
from vae_lab.data.files.download import ZipArchive
from vae_lab.data.files.duplicates import near_duplicates
from vae_lab.data.files.listing import Bad, Listing, list_files, printable, report_passed
from vae_lab.data.images import ImageSet, Splits
from vae_lab.data.splits import split
from vae_lab.data.survey import Survey, join_surveys, survey_duplicates, survey_folders, survey_sources
from vae_lab.errors import DataError, require_choice, require_number
from vae_lab.system.folders import cache_folder, expanded

log = logging.getLogger(__name__)

SUBFOLDERS = "subfolders"

NAMED = 20
"""Maximum number of bad files with a log line of their own."""


class Folder(ImageData):
    """A data set of the images in a folder and its subfolders, split at random by `split_seed`.

    A file is an image if its content is; `decode` says how it is decoded. Exact duplicates (equal pixels) are kept and
    are always in the same part. Nothing is ever written into the folder.

    Args:
        root: the folder; None raises an error that asks for it.
        val_fraction: share of the validation images.
        test_fraction: share of the test images.
        on_bad: "skip" leaves out unusable files and logs them; "fail" raises an error at the first one.
        max_pixels: images with more pixels are unusable.
        background: grey level, 0 to 255, of the background of transparent images.
        memory_limit: decoded sets of more bytes are memory-mapped from a file in `cache`.
        cache: folder for these files, which are reused while the folder and the settings stay the same; None is
            `vae_lab.system.folders.cache_folder`.
        archive: the archive to download the images from, or None.
        download: whether to download the images if the folder is missing or empty.
        labels: "subfolders" uses the folders directly in the root as classes, sorted by name; None uses no classes.
        settings: arguments of `ImageData`.
    """

    def __init__(
        self,
        *,
        root: str | None,
        val_fraction: float,
        test_fraction: float,
        on_bad: str,
        max_pixels: int,
        background: int,
        memory_limit: int,
        cache: str | None,
        archive: ZipArchive | None = None,
        download: bool = False,
        labels: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        _check_fractions(val_fraction, test_fraction)
        require_number("data.max_pixels", max_pixels, f"[1, {PIXEL_CEILING}]")
        require_number("data.background", background, "[0, 255]")
        require_number("data.memory_limit", memory_limit)
        require_choice("data.on_bad", on_bad, ("skip", "fail"))
        if cache == "":
            raise ValueError("data.cache is empty; name a folder, or choose null for the default one.")
        if download and archive is None:
            raise ValueError("data.download=true needs data.archive; set it, or choose data.download=false.")
        if labels not in (None, SUBFOLDERS):
            raise ValueError(f"data.labels must be null or {SUBFOLDERS}, not {labels}.")
        self.root = root
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.on_bad = on_bad
        self.rules = Rules(self.channels, self.image_size, max_pixels, background)
        self.memory_limit = memory_limit
        self.cache = cache_folder() if cache is None else expanded(cache)
        self.archive = archive
        self.download = download
        self.labels = labels

    def load(self) -> Splits:
        """Return the decoded images of the folder, split at random by `split_seed`."""
        root = self._find_root()
        listing = self._list(root)
        decoded = self._decode(root, listing)
        groups = _groups(decoded.digests)
        nimages = len(groups)
        nduplicates = nimages - int(groups.max()) - 1
        nval, ntest = (max(1, round(nimages * share)) for share in (self.val_fraction, self.test_fraction))
        paths = _paths(listing, decoded)
        images = ImageSet(decoded.pixels, self._labels(paths))
        rows = split(groups, nval, ntest, self.split_seed)
        self._survey = self._survey_of(listing, decoded, paths, rows, nduplicates)
        return Splits(*(images.subset(part) for part in rows))

    def _survey_of(
        self,
        listing: Listing,
        decoded: Decoded,
        paths: list[str],
        rows: tuple[Int64[Tensor, " _"], ...],
        nduplicates: int,
    ) -> Survey:
        """Return the summary of the data set for the log and for summary.json."""
        part = torch.zeros(len(paths), dtype=torch.int64)
        for number, indices in enumerate(rows):
            part[indices] = number
        hashes = np.array([source.dhash for source in decoded.sources], dtype=np.uint64)
        near = near_duplicates(decoded.pixels, hashes, part)
        return join_surveys(
            survey_sources(decoded.sources, len(listing.unreadable) + len(decoded.bad)),
            survey_folders(paths, part.tolist(), self.classes),
            survey_duplicates(nduplicates, near, paths),
            Survey({"passed_over": {passed.kind: passed.count for passed in listing.passed}}),
        )

    def _find_root(self) -> Path:
        """Return the folder's absolute path; if it is missing or empty and `download` is set, download the images."""
        if not self.root:
            raise DataError("data.root is not set; name the folder of the images with data.root=.")
        root = expanded(self.root).absolute()
        if self.download and self.archive is not None and _is_missing_or_empty(root):
            self.archive.download(Path(os.path.realpath(root)))
        return root

    def _list(self, root: Path) -> Listing:
        """Return the listing of the folder: its files that may be images, and the skipped entries.

        Raises:
            DataError: if there is no file; the message says what was found instead.
        """
        if not os.path.lexists(root):
            raise self._no_images(root, "does not exist")
        if not root.is_dir():
            raise self._no_images(root, "is not a folder (unpack an archive first)")
        try:
            listing = list_files(root)
        except OSError as error:
            raise self._no_images(root, f"cannot be read ({error.strerror or error})") from error
        report_passed(root, listing)
        if not listing.files and not listing.unreadable:
            finding = f"holds {listing.nfolders} folders and no file" if listing.nfolders else "is empty"
            if listing.passed:
                finding = f"holds nothing but {'; '.join(map(str, listing.passed))}"
            raise self._no_images(root, finding)
        return listing

    def _decode(self, root: Path, listing: Listing) -> Decoded:
        """Return the decoded images of the listed files, in memory or memory-mapped; log the unusable files.

        Raises:
            DataError: if there is no image, or if there is a bad file and `on_bad` is "fail".
        """
        started = time.monotonic()
        for bad in listing.unreadable:
            self._refuse(bad)
        if len(listing.files) * self.rules.nbytes > self.memory_limit:
            decoded = decode_files_mapped(root, listing.files, self.rules, self._refuse, self.cache)
        else:
            decoded = decode_files(root, listing.files, self.rules, self._refuse)
        bad = sorted(listing.unreadable + decoded.bad, key=lambda bad: os.fsencode(bad.path))
        for file in bad:
            self._refuse(file)
        _report(bad, len(decoded.digests), time.monotonic() - started)
        if not decoded.digests:
            first = f"{printable(bad[0].path)}: {bad[0].reason}"
            raise self._no_images(root, f"holds {len(bad)} files and no image ({first})")
        return decoded

    def _labels(self, paths: list[str]) -> Int64[Tensor, " n"]:
        """Return the class number of each image and set `classes`; if `labels` is None, all numbers are 0.

        Raises:
            DataError: if an image is not in a sub-folder.
        """
        if self.labels is None:
            return torch.zeros(len(paths), dtype=torch.int64)
        places = [Path(path).parts for path in paths]
        stray = [place[0] for place in places if len(place) == 1]
        if stray:
            raise DataError(
                f"{printable(stray[0])} is not in a sub-folder, so data.labels={SUBFOLDERS} finds no class for it;"
                " move it into a sub-folder, or choose data.labels=null."
            )
        names = sorted({place[0] for place in places}, key=os.fsencode)
        self.classes = tuple(map(printable, names))
        numbers = {name: number for number, name in enumerate(names)}
        return torch.tensor([numbers[place[0]] for place in places], dtype=torch.int64)

    def _refuse(self, bad: Bad) -> None:
        """Raise DataError for an unusable file if `on_bad` is "fail"; else do nothing."""
        if self.on_bad == "fail":
            raise DataError(
                f"{printable(bad.path)} is not a usable image ({bad.reason}); remove it, or skip such files with"
                " data.on_bad=skip."
            )

    def _no_images(self, root: Path, finding: str) -> DataError:
        """Return a DataError that says what `root` holds instead of images, and the remedy."""
        remedy = "name the folder of the images with data.root="
        if self.archive is not None and not self.download:
            remedy += ", or download them with data.download=true"
        return DataError(f"{printable(str(root))} {finding}; {remedy}.")


def _is_missing_or_empty(root: Path) -> bool:
    try:
        return not any(root.iterdir())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def _check_fractions(val_fraction: float, test_fraction: float) -> None:
    require_number("data.val_fraction", val_fraction, "(0, 1)", "; 0.1 is usual")
    require_number("data.test_fraction", test_fraction, "(0, 1)", "; 0.1 is usual")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} leave nothing to train on; choose"
            " fractions whose sum is below 1."
        )


def _paths(listing: Listing, decoded: Decoded) -> list[str]:
    """Return the path of each decoded image, relative to the root."""
    bad = {file.path for file in decoded.bad}
    paths = [file.path for file in listing.files if file.path not in bad]
    assert len(paths) == len(decoded.digests)
    return paths


def _groups(digests: list[str]) -> Int64[Tensor, " n"]:
    """Return the group number of each image; images with equal pixels form a group, numbered in listing order."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=torch.int64)


def _report(bad: list[Bad], nimages: int, seconds: float) -> None:
    """Log the unusable files, and the number of decoded images."""
    for file in bad[:NAMED]:
        log.warning("skipped %s: %s", printable(file.path), file.reason)
    if len(bad) > NAMED:
        log.warning("… and %d more", len(bad) - NAMED)
    level = logging.WARNING if bad else logging.INFO
    log.log(level, "decoded %d of %d files, skipped %d (%.1f s)", nimages, nimages + len(bad), len(bad), seconds)

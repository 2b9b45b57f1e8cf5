"""Decoding of many image files into one tensor, in memory or memory-mapped from a cache file."""

import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from torch import Tensor

from vae_lab.data.files.decode import HEAD_BYTES, RULES, BadImage, decode, is_image
from vae_lab.data.files.listing import Bad, Found
from vae_lab.data.files.source import Source
from vae_lab.data.files.staging import whole_folder
from vae_lab.errors import StorageError
from vae_lab.system.progress import track
from vae_lab.system.threads import allowed_cores

log = logging.getLogger(__name__)

BLOCK = 1024
"""Number of files that are submitted to the threads at a time, to bound the number of futures."""

HEADROOM_BYTES = 64 * 2**20
"""Bytes that a file may have in addition to 16 per pixel of the limit, for previews, metadata and later frames."""

PIXELS, INDEX = "pixels.u8", "index.json"

Pixels = UInt8[Tensor, "n channels height width"]
OnBad = Callable[[Bad], None]
"""A function that is called with each bad file, in listing order; it may raise an error to end the decoding."""


@dataclass(frozen=True)
class Rules:
    """The decoding settings that determine the pixels; see `decode`."""

    channels: int
    image_size: int
    max_pixels: int
    background: int

    @property
    def nbytes(self) -> int:
        """The size of one decoded image in bytes."""
        return self.channels * self.image_size**2


class Decoded(NamedTuple):
    """The decoded images of a folder, and the files that could not be decoded, both in listing order.

    Attributes:
        pixels: of the images.
        digests: a hash of each image's pixels.
        sources: properties of each image in its file.
        bad: the files that could not be decoded.
    """

    pixels: Pixels
    digests: list[str]
    sources: list[Source]
    bad: list[Bad]


class Row(NamedTuple):
    """The hash of a decoded image's pixels, and the image's properties in its file."""

    digest: str
    source: Source


def decode_files(root: Path, files: Sequence[Found], rules: Rules, on_bad: OnBad) -> Decoded:
    """Return the decoded images of a list of files, in memory."""
    shape = (len(files), rules.channels, rules.image_size, rules.image_size)
    return _fill(torch.empty(shape, dtype=torch.uint8), root, files, rules, on_bad)


def decode_files_mapped(root: Path, files: Sequence[Found], rules: Rules, on_bad: OnBad, cache: Path) -> Decoded:
    """Return the decoded images of a list of files, memory-mapped; they are decoded if `cache` lacks them.

    Raises:
        StorageError: if the disk is full, or the cache belongs to another user.
    """
    entry = cache / _key(root, files, rules)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        decoded = _read_entry(entry, rules)
        if decoded is None:
            _write_entry(entry, root, files, rules, on_bad)
            decoded = _read_entry(entry, rules)
            assert decoded is not None
    except OSError as error:
        raise StorageError(
            f"{len(files) * rules.nbytes:,} bytes of decoded images cannot be kept in {cache}"
            f" ({error.strerror or error}); name another folder with data.cache=, or raise data.memory_limit= if they"
            " fit into memory."
        ) from error
    return decoded


def _fill(pixels: Pixels, root: Path, files: Sequence[Found], rules: Rules, on_bad: OnBad) -> Decoded:
    """Decode the files into the first rows of `pixels`; return these rows, and the files that cannot be decoded."""
    good: list[Row] = []
    bad: list[Bad] = []

    def decode_row(row: int) -> Row | BadImage:
        return _decode_into(pixels[row], root / files[row].path, files[row].nbytes, rules)

    with warnings.catch_warnings(), ThreadPoolExecutor(allowed_cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # not in the threads, which share one list of filters
        blocks = torch.arange(len(files)).split(BLOCK)
        outcomes = (outcome for block in blocks for outcome in pool.map(decode_row, block.tolist()))
        for row, outcome in zip(track(range(len(files)), "decoding"), outcomes, strict=True):
            if isinstance(outcome, BadImage):
                bad.append(Bad(files[row].path, str(outcome)))
                on_bad(bad[-1])
                continue
            if len(good) < row:  # bad files leave gaps; all rows up to this one are decoded
                pixels[len(good)] = pixels[row]
            good.append(outcome)
    return Decoded(pixels[: len(good)], [row.digest for row in good], [row.source for row in good], bad)


def _decode_into(row: UInt8[Tensor, "channels height width"], path: Path, nbytes: int, rules: Rules) -> Row | BadImage:
    """Decode a file into `row`; return the hash and the file properties, or a BadImage if the file is unusable."""
    try:
        content = _read(path, nbytes, HEADROOM_BYTES + 16 * rules.max_pixels)
        picture = decode(
            content, rules.channels, rules.image_size, max_pixels=rules.max_pixels, background=rules.background
        )
    except BadImage as bad:
        return BadImage(*bad.args)  # without the traceback, which would keep the bytes in memory
    row.copy_(picture.pixels)
    return Row(hashlib.blake2b(picture.pixels.numpy().data, digest_size=16).hexdigest(), picture.source)


def _read(path: Path, nbytes: int, limit: int) -> bytes:
    """Return the content of a file if it is an image, else only its first `HEAD_BYTES` bytes."""
    if nbytes > limit:
        raise BadImage(f"{nbytes:,} bytes are too many for an image of data.max_pixels")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            return head + file.read() if is_image(head) else head
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from error


def _write_entry(entry: Path, root: Path, files: Sequence[Found], rules: Rules, on_bad: OnBad) -> None:
    """Decode the files and write the images to the cache folder `entry`, which is created only when complete."""
    with whole_folder(entry) as folder, (folder / PIXELS).open("wb+") as file:
        # Reserve the space: writing to the map of a sparse file raises SIGBUS when the disk is full.
        os.posix_fallocate(file.fileno(), 0, len(files) * rules.nbytes)
        decoded = _fill(_map(folder / PIXELS, len(files), rules, "r+"), root, files, rules, on_bad)
        file.truncate(len(decoded.digests) * rules.nbytes)
        os.fsync(file.fileno())
        index = {"digests": decoded.digests, "sources": decoded.sources, "bad": decoded.bad}
        (folder / INDEX).write_text(json.dumps(index), encoding="ascii")
    log.info("decoded images kept in %s", entry)


def _read_entry(entry: Path, rules: Rules) -> Decoded | None:
    """Return the images in the cache folder `entry`, or None if it is missing or damaged; a damaged one is deleted."""
    if not entry.exists():
        return None
    if entry.stat().st_uid != os.getuid():
        raise PermissionError(errno.EPERM, "it belongs to another user")
    try:
        index = json.loads((entry / INDEX).read_text(encoding="ascii"))
        digests, bad = list(index["digests"]), [Bad(*pair) for pair in index["bad"]]
        sources = [Source(*facts) for facts in index["sources"]]
        if (entry / PIXELS).stat().st_size == len(digests) * rules.nbytes and len(sources) == len(digests):
            return Decoded(_map(entry / PIXELS, len(digests), rules, "c"), digests, sources, bad)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    log.warning("%s is damaged; decoding again", entry)
    shutil.rmtree(entry)
    return None


def _map(path: Path, n: int, rules: Rules, mode: str) -> Pixels:
    """Return a file as a memory-mapped tensor, which writes changes to the file if `mode` is "r+", not if it is "c"."""
    shape = (n, rules.channels, rules.image_size, rules.image_size)
    if n == 0:  # an empty file cannot be mapped
        return torch.empty(shape, dtype=torch.uint8)
    return torch.from_numpy(np.memmap(path, np.uint8, mode, shape=shape))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _key(root: Path, files: Sequence[Found], rules: Rules) -> str:
    """Return the name of the cache folder for these files and settings, a hash of all that the pixels depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (os.path.realpath(root), PIL.__version__, RULES, rules, *files):
        digest.update(ascii(part).encode("ascii") + b"\n")
    return digest.hexdigest()

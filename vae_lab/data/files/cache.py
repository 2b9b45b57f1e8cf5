"""Decoding of many image files into one tensor, in memory or memory-mapped from a cache file."""

import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from torch import Tensor

from vae_lab.data.files.decode import HEAD_BYTES, RULES, BadImage, decode, decode_pixels, is_image
from vae_lab.data.files.listing import Bad, Found
from vae_lab.data.files.source import Source
from vae_lab.data.files.staging import whole_folder
from vae_lab.errors import StorageError
from vae_lab.system.progress import track
from vae_lab.system.threads import allowed_cores

log = logging.getLogger(__name__)

BLOCK = 1024
"""Number of files that are submitted to the threads at a time, to bound the number of futures."""

CHUNK = 64
"""Number of files that a thread decodes in one call, at most."""

SMALL_BYTES = 4096
"""Mean size of files whose decoding is mostly Python's, which one thread does faster than several."""

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


Outcome = Row | BadImage | None
"""What became of a file: None is a decoded image whose properties nobody asked for."""


def decode_files(root: Path, files: Sequence[Found], rules: Rules, on_bad: OnBad) -> Decoded:
    """Return the decoded images of a list of files, in memory."""
    return _fill(_empty(len(files), rules), root, files, rules, on_bad)


def decode_blocks(
    root: Path, files: Sequence[Found], rules: Rules, size: int, *, describe: bool = True
) -> Iterator[tuple[Sequence[Found], Decoded]]:
    """Yield files in blocks of `size`, each with its decoded images; the next block is decoded in the meantime.

    Without `describe`, which takes as long as decoding a small image, the blocks have no digests and no sources.
    """
    waiting: tuple[Sequence[Found], Pixels, list[Future[list[Outcome]]]] | None = None
    with _pool(files) as (pool, ncores):
        for start in range(0, len(files), size):
            block = files[start : start + size]
            pixels = _empty(len(block), rules)
            decode_rows = _decoder(pixels, root, block, rules, describe=describe)
            futures = [pool.submit(decode_rows, rows) for rows in _split(range(len(block)), ncores)]
            if waiting is not None:
                yield _collected(*waiting)
            waiting = block, pixels, futures
        if waiting is not None:
            yield _collected(*waiting)


def _collected(
    block: Sequence[Found], pixels: Pixels, futures: list[Future[list[Outcome]]]
) -> tuple[Sequence[Found], Decoded]:
    """Wait for the images of a block, and return the block with them."""
    outcomes = (outcome for future in futures for outcome in future.result())
    return block, _gather(pixels, block, outcomes, lambda _: None)


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
    decode_rows = _decoder(pixels, root, files, rules, describe=True)
    with _pool(files) as (pool, ncores):
        blocks = (range(start, min(start + BLOCK, len(files))) for start in range(0, len(files), BLOCK))
        parts = (part for block in blocks for part in pool.map(decode_rows, _split(block, ncores)))
        outcomes = (outcome for part in parts for outcome in part)
        shown = (outcome for _, outcome in zip(track(range(len(files)), "decoding"), outcomes, strict=True))
        return _gather(pixels, files, shown, on_bad)


def _empty(n: int, rules: Rules) -> Pixels:
    """Return memory for n images."""
    return torch.empty(n, rules.channels, rules.image_size, rules.image_size, dtype=torch.uint8)


@contextmanager
def _pool(files: Sequence[Found]) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Yield threads to decode the files in, and their number; Pillow's warnings are silenced."""
    is_small = sum(file.nbytes for file in files) < SMALL_BYTES * len(files)
    ncores = 1 if is_small else allowed_cores()
    with warnings.catch_warnings(), ThreadPoolExecutor(ncores) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # not in the threads, which share one list of filters
        yield pool, ncores


def _split(rows: range, ncores: int) -> list[range]:
    """Return rows in chunks, each for one call in a thread; the call itself takes as long as a small image."""
    size = max(1, min(CHUNK, len(rows) // (4 * ncores)))
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _decoder(
    pixels: Pixels, root: Path, files: Sequence[Found], rules: Rules, *, describe: bool
) -> Callable[[range], list[Outcome]]:
    """Return a function that decodes some of the files into their rows of `pixels`."""
    array = pixels.numpy()

    def decode_rows(rows: range) -> list[Outcome]:
        found: list[Outcome] = []
        for row in rows:
            path = os.path.join(root, files[row].path)  # noqa: PTH118 (making a Path takes as long as reading a file)
            found.append(_decode_into(array[row], path, files[row].nbytes, rules, describe=describe))
        return found

    return decode_rows


def _gather(pixels: Pixels, files: Sequence[Found], outcomes: Iterable[Outcome], on_bad: OnBad) -> Decoded:
    """Move the rows of `pixels` that were decoded to its start; return them, and the files that were not."""
    good: list[Row] = []
    bad: list[Bad] = []
    array = pixels.numpy()
    ngood = 0
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, BadImage):
            bad.append(Bad(files[row].path, str(outcome)))
            on_bad(bad[-1])
            continue
        if ngood < row:  # bad files leave gaps; all rows up to this one are decoded
            array[ngood] = array[row]
        ngood += 1
        if outcome is not None:
            good.append(outcome)
    return Decoded(pixels[:ngood], [row.digest for row in good], [row.source for row in good], bad)


def _decode_into(
    row: UInt8[np.ndarray, "channels height width"], path: str, nbytes: int, rules: Rules, *, describe: bool
) -> Outcome:
    """Decode a file into `row`; return its hash and properties if `describe`, or a BadImage if it is unusable."""
    try:
        content = _read(path, nbytes, HEADROOM_BYTES + 16 * rules.max_pixels)
        limits = {"max_pixels": rules.max_pixels, "background": rules.background}
        if not describe:
            row[...] = decode_pixels(content, rules.channels, rules.image_size, **limits)
            return None
        picture = decode(content, rules.channels, rules.image_size, **limits)
    except BadImage as bad:
        return BadImage(*bad.args)  # without the traceback, which would keep the bytes in memory
    row[...] = picture.pixels.numpy()
    return Row(hashlib.blake2b(picture.pixels.numpy().data, digest_size=16).hexdigest(), picture.source)


def _read(path: str, nbytes: int, limit: int) -> bytes:
    """Return the content of a file if it is an image, else only its first `HEAD_BYTES` bytes."""
    if nbytes > limit:
        raise BadImage(f"{nbytes:,} bytes are too many for an image of data.max_pixels")
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (likewise)
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

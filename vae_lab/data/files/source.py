"""Properties of an image file before it is cropped and resized; `survey` counts them."""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

MAX_PAGES = 100_000
"""Pages of a TIFF file that are counted, at most: a few megabytes can hold millions of empty ones."""

NEW_SUBFILE_TYPE = 254
REDUCED = 1
"""The bit of that tag that marks a smaller copy of another page (TIFF 6.0, page 36)."""


class Source(NamedTuple):
    """A picture as it was in its file.

    Attributes:
        format: of the file, in Pillow's word.
        width: in pixels, once it is upright.
        height: likewise.
        npages: pages or frames in the file, of which the first is taken; smaller copies of a page do not count.
        nbits: bits of a sample in the file.
        low: its least value.
        high: its greatest value.
        white: the value that stands for white.
        dhash: 64 bits of the decoded square in 8 rows of 9 cells: whether each cell is darker than its right neighbour.
    """

    format: str
    width: int
    height: int
    npages: int
    nbits: int
    low: float
    high: float
    white: float
    dhash: int


def is_deep(image: Image.Image) -> bool:
    """Return whether an image holds numbers of more than 8 bits in one channel."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def bits_per_sample(image: Image.Image, content: bytes) -> int:
    """Return how many bits the file spends on each sample; 8 for the entries of a palette."""
    if image.mode in ("P", "PA"):
        return 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0])
    if image.format == "PNG":
        return content[24]  # of the header chunk, which must be the first
    return 1 if image.mode == "1" else 8


def value_range(image: Image.Image, flat: Image.Image, nbits: int) -> tuple[float, float, float]:
    """Return the least and the greatest value of an image, and the value that stands for white.

    Args:
        image: as it was opened.
        flat: the same in 8 bits, grey or colour.
        nbits: bits of a sample in the file.
    """
    if is_deep(image):
        values = np.asarray(image)
        return float(values.min()), float(values.max()), 1.0 if image.mode == "F" else float(2**nbits - 1)
    bands = np.array(flat.getextrema())
    scale = 257 if nbits == 16 else 1  # of 16-bit colour Pillow keeps the high byte
    return float(bands.min()) * scale, float(bands.max()) * scale, 255.0 * scale


def count_pages(image: Image.Image, content: bytes) -> int:
    """Return how many pages or frames a file holds; the previews in an MPO file, as phones write them, do not count."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _count_tiff_pages(content)
    if image.format == "GIF":
        with Image.open(io.BytesIO(content), formats=["GIF"]) as again:  # counting leaves the first frame
            return int(getattr(again, "n_frames", 1))
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def _count_tiff_pages(content: bytes) -> int:
    """Return the number of pages along the chain of directories, as far as it can be followed."""
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", content, 2)[0] == 43
    count_format, entry_bytes, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")
    (place,) = struct.unpack_from(order + offset_format, content, 8 if big else 4)
    seen: set[int] = set()
    npages = 0
    while place and place not in seen and len(seen) < MAX_PAGES:
        seen.add(place)
        try:
            (nentries,) = struct.unpack_from(order + count_format, content, place)
            entries = place + struct.calcsize("=" + count_format)
            (place,) = struct.unpack_from(order + offset_format, content, entries + nentries * entry_bytes)
            npages += not _is_reduced(content, order, entries, nentries, entry_bytes)
        except struct.error:  # cut short after the first page
            break
    return max(1, npages)


def _is_reduced(content: bytes, order: str, entries: int, nentries: int, entry_bytes: int) -> bool:
    """Return whether a directory says that its page is a smaller copy; the tag comes first, since tags are sorted."""
    if not nentries:
        return False
    (tag,) = struct.unpack_from(order + "H", content, entries)
    (value,) = struct.unpack_from(order + "I", content, entries + entry_bytes - (8 if entry_bytes == 20 else 4))
    return tag == NEW_SUBFILE_TYPE and bool(value & REDUCED)


def difference_hash(square: Image.Image) -> int:
    """Return 64 bits that small changes of a picture leave alone; see `Source.dhash`."""
    cells = np.asarray(square.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")

"""Properties of an image in its file, before it is cropped and resized: format, size, bits, values."""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

MAX_PAGES = 100_000
"""Maximum number of counted pages of a TIFF file; a few megabytes can hold millions of empty pages."""

NEW_SUBFILE_TYPE = 254
REDUCED = 1
"""The bit of the tag NewSubfileType that marks a smaller copy of another page (TIFF 6.0, page 36)."""


class Source(NamedTuple):
    """The properties of an image in its file, before it is cropped and resized.

    Attributes:
        format: Pillow's name of the file format.
        width: in pixels, after rotation by EXIF.
        height: likewise.
        npages: number of pages or frames in the file, without smaller copies of a page; the first one is decoded.
        nbits: bits per sample in the file.
        low: smallest value.
        high: largest value.
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
    """Return whether an image has one channel with more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def bits_per_sample(image: Image.Image, content: bytes) -> int:
    """Return the number of bits per sample in the file; 8 if the image has a palette."""
    if image.mode in ("P", "PA"):
        return 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0])
    if image.format == "PNG":
        return content[24]  # the bit depth in the header chunk, which is always the first
    return 1 if image.mode == "1" else 8


def value_range(image: Image.Image, flat: Image.Image, nbits: int) -> tuple[float, float, float]:
    """Return the smallest and largest pixel value of an image and the value of white; `flat` is its 8-bit version."""
    if is_deep(image):
        values = np.asarray(image)
        return float(values.min()), float(values.max()), 1.0 if image.mode == "F" else float(2**nbits - 1)
    bands = np.array(flat.getextrema())
    scale = 257 if nbits == 16 else 1  # Pillow keeps the high byte of 16-bit colour
    return float(bands.min()) * scale, float(bands.max()) * scale, 255.0 * scale


def count_pages(image: Image.Image, content: bytes) -> int:
    """Return the number of pages or frames in a file; 1 for MPO files, whose others are previews."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _count_tiff_pages(content)
    if image.format == "GIF":
        with Image.open(io.BytesIO(content), formats=["GIF"]) as again:  # counting moves away from the first frame
            return int(getattr(again, "n_frames", 1))
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def _count_tiff_pages(content: bytes) -> int:
    """Return the number of pages in a TIFF file, counted up to the first damaged one; at least 1."""
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
        except struct.error:  # the file is truncated after the first page
            break
    return max(1, npages)


def _is_reduced(content: bytes, order: str, entries: int, nentries: int, entry_bytes: int) -> bool:
    """Return whether a TIFF directory marks its page as a smaller copy of another page.

    Only the first tag is read: tags are sorted, and this one has the smallest number.
    """
    if not nentries:
        return False
    (tag,) = struct.unpack_from(order + "H", content, entries)
    (value,) = struct.unpack_from(order + "I", content, entries + entry_bytes - (8 if entry_bytes == 20 else 4))
    return tag == NEW_SUBFILE_TYPE and bool(value & REDUCED)


def difference_hash(square: Image.Image) -> int:
    """Return the 64-bit difference hash (dHash) of an image, which is robust to small changes; see `Source.dhash`."""
    cells = np.asarray(square.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")

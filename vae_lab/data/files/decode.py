"""Decoding of an image file to a square of uint8 pixels.

1. The content of a file decides its format, not its name: JPEG (also MPO), PNG, WebP, BMP, TIFF or GIF. The first frame
   or page is used.
2. Truncated files are refused. Images with too many pixels are refused by their header, before they are decoded.
3. EXIF rotation is applied, an embedded colour profile is converted to sRGB, transparency is laid over a background.
4. 16-bit grey is scaled by 1/257. Values whose black and white are unknown (32-bit integers, floats outside [0, 1]) are
   refused.
5. The central square is cropped and resized by Lanczos with antialiasing; an image of the right size keeps its pixels.
"""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import (  # importing these plugins keeps out 40 others, and threads do not race to register them
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from torch import Tensor

from vae_lab.data.files.source import Source, bits_per_sample, count_pages, difference_hash, is_deep, value_range

RULES = 3
"""Version of the decoding; increase it with every change to the pixels, so that older cache entries are not used."""

HEAD_BYTES = 16
"""Number of bytes that `is_image` reads."""

PIXEL_CEILING = 2 * (Image.MAX_IMAGE_PIXELS or 89_478_485)
"""Pillow refuses images with more pixels."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# Errors that Pillow raises on hostile bytes, found by fuzzing or in its source. ImportError, NameError and the like are
# left out, because they would be faults of vae_lab.
HOSTILE = (
    OSError,  # UnidentifiedImageError, truncated data, decoder errors
    ValueError,  # text and profile bombs, broken chunks
    SyntaxError,  # broken headers
    ArithmeticError,  # OverflowError, ZeroDivisionError: absurd sizes and rationals
    LookupError,  # unknown modes and tags, short tables
    AttributeError,
    TypeError,
    EOFError,
    MemoryError,
    RuntimeError,  # also RecursionError and NotImplementedError
    AssertionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImageCms.PyCMSError,
)

TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by its EXIF orientation."""


ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Entries of Pillow's image.info from which `getexif` reads an orientation; in TIFF files, it is a tag."""


class BadImage(Exception):  # noqa: N818
    """A file is not a usable image; the message is a short reason."""


class Picture(NamedTuple):
    """The pixels of an image's central square, and the properties of the image in its file."""

    pixels: UInt8[Tensor, "channels height width"]
    source: Source


def is_image(head: bytes) -> bool:
    """Return whether the first bytes of a file mark a format that `decode` accepts."""
    return any(Image.OPEN[name][1](head[:HEAD_BYTES]) for name in FORMATS)  # pyright: ignore[reportOptionalCall]


def decode(content: bytes, channels: int, image_size: int, *, max_pixels: int, background: int = 255) -> Picture:
    """Return the central square of an image as uint8 pixels, and the properties of the image in its file.

    Args:
        content: the bytes of the file.
        channels: 1 for grey, 3 for colour.
        image_size: height and width of the returned square.
        max_pixels: images with more pixels are refused before they are decoded.
        background: grey level, 0 to 255, of the background of a transparent picture.

    Raises:
        BadImage: if the file is not a picture, is damaged or too large, or its range of values is unknown.
    """
    square, source = _decode(content, channels, image_size, max_pixels, background, describe=True)
    assert source is not None
    return Picture(_to_tensor(square), source)


def decode_pixels(
    content: bytes, channels: int, image_size: int, *, max_pixels: int, background: int = 255
) -> UInt8[np.ndarray, "channels height width"]:
    """Return the pixels that `decode` returns, as an array, without the properties of the image in its file.

    Raises:
        BadImage: as `decode`.
    """
    return _to_array(_decode(content, channels, image_size, max_pixels, background, describe=False)[0])


def _decode(
    content: bytes, channels: int, image_size: int, max_pixels: int, background: int, *, describe: bool
) -> tuple[Image.Image, Source | None]:
    """Return the central square of an image and, if `describe`, the properties of the image in its file."""
    if not content:
        raise BadImage("empty file")
    if not is_image(content):
        raise BadImage("not an image (JPEG, PNG, WebP, BMP, TIFF or GIF)")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            image.load()
            _check_size(image, max_pixels)
            flat = _plain(image, bits_per_sample(image, content), channels, background)
            square = _square(flat, image_size)
            return square, _source(image, content, flat, square) if describe else None
    except HOSTILE as error:
        raise BadImage(_reason(error)) from error


def square_of(
    image: Image.Image, channels: int, image_size: int, *, max_pixels: int, background: int = 255
) -> UInt8[Tensor, "channels height width"]:
    """Return the central square of Pillow's image as `decode` returns that of a file; the image is not changed.

    Raises:
        BadImage: if its file is damaged, it is too large, or its range of values is unknown.
    """
    try:
        _check_size(image, max_pixels)
        nbits = 32 if image.mode == "I" else 16 if is_deep(image) else 8
        nbits = bits_per_sample(image, b"") if image.format == "TIFF" else nbits  # 12 bits are in mode I;16, too
        return _to_tensor(_square(_plain(image.copy(), nbits, channels, background), image_size))
    except HOSTILE as error:
        raise BadImage(_reason(error)) from error


def _plain(image: Image.Image, nbits: int, channels: int, background: int) -> Image.Image:
    """Return the whole image upright, in sRGB, without transparency, in Pillow's mode L or RGB."""
    upright = _flatten(_to_srgb(_to_8_bit(_upright(image), nbits)), background)
    return upright.convert("L" if channels == 1 else "RGB")


def _to_tensor(image: Image.Image) -> UInt8[Tensor, "channels height width"]:
    """Return the pixels of an image in mode L or RGB."""
    return torch.from_numpy(np.ascontiguousarray(_to_array(image)))


def _to_array(image: Image.Image) -> UInt8[np.ndarray, "channels height width"]:
    """Return the pixels of an image in mode L or RGB."""
    pixels = np.array(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _source(image: Image.Image, content: bytes, flat: Image.Image, square: Image.Image) -> Source:
    """Return the properties of an image; `flat` is the whole image in 8 bits, `square` its central square."""
    try:
        npages = count_pages(image, content)
    except HOSTILE:  # a later page is damaged; only the first one is used
        npages = 1
    nbits = bits_per_sample(image, content)
    numbers = value_range(image, flat, nbits)
    return Source(str(image.format), *flat.size, npages, nbits, *numbers, difference_hash(square))


def _reason(error: BaseException) -> str:
    """Return the reason of an error as a short text."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "damaged or cut short"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {PIXEL_CEILING:,} pixels"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_size(image: Image.Image, max_pixels: int) -> None:
    """Raise BadImage if an image has no pixels or more than `max_pixels`."""
    npixels = image.width * image.height
    if npixels > max_pixels:
        raise BadImage(f"{image.width}x{image.height} are {npixels:,} pixels, more than data.max_pixels={max_pixels:,}")
    if npixels == 0:
        raise BadImage("no pixels")


def _upright(image: Image.Image) -> Image.Image:
    """Return the image rotated or mirrored by its EXIF orientation; unchanged if that is missing or damaged."""
    if image.format != "TIFF" and not any(name in image.info for name in ORIENTED):
        return image  # reading an empty EXIF block takes as long as decoding a small image
    try:
        turn = TURN.get(image.getexif().get(0x0112, 1))
    except HOSTILE:
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = image.info
    return turned


def _to_8_bit(image: Image.Image, nbits: int) -> Image.Image:
    """Return an image of `nbits` bits per sample converted to 8 bits, in Pillow's mode L, RGB, RGBA or CMYK."""
    if "transparency" not in image.info and image.mode in ("L", "RGB", "CMYK", "1"):
        return image.convert("L") if image.mode == "1" else image
    if is_deep(image):
        return _scaled(image, nbits)
    if isinstance(image.info.get("transparency"), tuple) and max(image.info["transparency"]) > 255:
        # Pillow keeps the high byte of each pixel of a 16-bit PNG but both bytes of its transparent colour.
        image.info["transparency"] = tuple(value >> 8 for value in image.info["transparency"])
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _scaled(image: Image.Image, nbits: int) -> Image.Image:
    """Return a grey image of more than 8 bits scaled to 8 bits, black 0 to white 255; RGBA if it has transparency."""
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):
            raise BadImage("floating-point pixels outside [0, 1]: their black and white are unknown")
        return _grey(values * 255, image)
    if nbits > 16 or values.min() < 0:
        raise BadImage(f"{nbits}-bit integer pixels: their black and white are unknown")
    grey = _grey(values * (255 / (2**nbits - 1)), image)
    if "transparency" not in image.info:
        return grey
    opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
    return Image.merge("RGBA", (grey, grey, grey, Image.fromarray(opaque)))


def _grey(values: Float[np.ndarray, "height width"], source: Image.Image) -> Image.Image:
    """Return grey levels in [0, 255] as an 8-bit image with the colour profile of `source`."""
    grey = Image.fromarray(np.rint(values).astype(np.uint8))
    grey.info["icc_profile"] = source.info.get("icc_profile")
    return grey


def _to_srgb(image: Image.Image) -> Image.Image:
    """Return the image in sRGB; an image without a usable colour profile is unchanged."""
    icc = image.info.get("icc_profile")
    if not icc:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        if "sRGB" in ImageCms.getProfileDescription(profile):
            return image  # a transform would only round the values
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode) or image
    except HOSTILE:
        return image


def _flatten(image: Image.Image, background: int) -> Image.Image:
    """Return the image composited over a grey background if it has transparency, else unchanged."""
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGBA", image.size, (background, background, background, 255))
    return Image.alpha_composite(canvas, image)


def _square(image: Image.Image, size: int) -> Image.Image:
    """Return the central square of an image, resized to `size` pixels if it has another size."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)

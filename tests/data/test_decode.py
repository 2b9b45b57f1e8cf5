"""What `decode` makes of every kind of picture, good and bad; the figures are those of faults.md, F and S15."""

import io
import random
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from vae_lab.data.files.cache import Rules, decode_blocks, decode_files
from vae_lab.data.files.decode import PIXEL_CEILING, TURN, BadImage, decode, decode_pixels
from vae_lab.data.files.listing import Found

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # `decode_files` silences Pillow for all its threads

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8))
SMOOTH = Image.fromarray((np.add.outer(range(32), range(32))[..., None] * np.array([4, 3, 1])).astype(np.uint8))
LIMIT = 10**6


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def decoded(content: bytes, image_size: int = 32, channels: int = 3, **options: int) -> torch.Tensor:
    return decode(content, channels, image_size, **{"max_pixels": LIMIT, **options}).pixels


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bilevel_png(width: int, height: int, *extra: bytes) -> bytes:
    """A black picture of any size, in a few kilobytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((1 + -(-width // 8)) * height))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def multi_frame(kind: str, **options: Any) -> bytes:
    return encoded(NOISE, kind, save_all=True, append_images=[SMOOTH, SMOOTH], **options)


LOSSLESS = {
    "png": encoded(NOISE),
    "webp": encoded(NOISE, "WEBP", lossless=True),
    "bmp": encoded(NOISE, "BMP"),
    "tiff": encoded(NOISE, "TIFF"),
    "tiff lzw": encoded(NOISE, "TIFF", compression="tiff_lzw"),
    "palette": encoded(NOISE.quantize(200)),
    "gif": encoded(NOISE.quantize(200), "GIF"),
    "bilevel": encoded(NOISE.convert("1")),
    "ycbcr tiff": encoded(NOISE.convert("YCbCr"), "TIFF"),
    "apng": multi_frame("PNG"),
    "animated webp": multi_frame("WEBP", lossless=True),
    "multi-page tiff": multi_frame("TIFF"),
}
LOSSY = {
    "jpeg": encoded(SMOOTH, "JPEG", quality=95),
    "progressive jpeg": encoded(SMOOTH, "JPEG", quality=95, progressive=True),
    "mpo": encoded(SMOOTH, "MPO", quality=95, save_all=True, append_images=[NOISE]),
    "webp": encoded(SMOOTH, "WEBP", quality=95),
    "cmyk jpeg": encoded(SMOOTH.convert("CMYK"), "JPEG", quality=95),
    "lab tiff": encoded(SMOOTH.convert("LAB"), "TIFF"),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_keep_every_pixel(name):
    with Image.open(io.BytesIO(LOSSLESS[name])) as image:
        expected = pixels(image)
    result = decoded(LOSSLESS[name])
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_come_close(name):
    error = (decoded(LOSSY[name]).int() - pixels(SMOOTH).int()).abs()
    assert error.float().mean() < 5
    assert error.max() < 32


@pytest.mark.parametrize("name", ["animated webp", "apng", "multi-page tiff"])
def test_of_several_frames_the_first_counts(name):
    assert torch.equal(decoded(LOSSLESS[name]), pixels(NOISE))


def test_adobe_cmyk_is_no_negative():
    content = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in content
    assert (decoded(content).float().mean((1, 2)) - torch.tensor([255.0, 0, 0])).abs().max() < 5


def test_grey_and_colour_convert_into_each_other():
    grey = decoded(encoded(NOISE), channels=1)
    assert torch.equal(grey[0], torch.from_numpy(np.array(NOISE.convert("L"))))
    assert torch.equal(decoded(encoded(NOISE.convert("L"))), grey.expand(3, -1, -1))


NOT_IMAGES = {
    "empty": (b"", "empty file"),
    "html": (b"<!DOCTYPE html><html><body>Not found</body></html>", "not an image"),
    "random": (bytes(RNG.integers(0, 256, 5000, dtype=np.uint8)), "not an image"),
    "eps": (encoded(NOISE, "EPS"), "not an image"),
    "psd": (b"8BPS\x00\x01" + bytes(40), "not an image"),
    "fits": (b"SIMPLE  =                    T" + bytes(80), "not an image"),
    "jpeg 2000": (encoded(NOISE, "JPEG2000"), "not an image"),
    "pdf": (encoded(NOISE, "PDF"), "not an image"),
    "ico": (encoded(NOISE, "ICO"), "not an image"),
    "ppm": (encoded(NOISE, "PPM"), "not an image"),
    "avif": (encoded(NOISE, "AVIF"), "not an image"),
    "header only": (b"\xff\xd8\xff\xe0" + bytes(30), "damaged or cut short"),
    "no png chunk": (b"\x89PNG\r\n\x1a\n" + bytes(30), "damaged or cut short"),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_picture_is_refused_with_its_reason(name):
    content, reason = NOT_IMAGES[name]
    with pytest.raises(BadImage, match=reason) as raised:
        decoded(content)
    assert "0x" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["png", "webp", "bmp", "tiff", "tiff lzw", "gif", "palette"])
def test_a_cut_lossless_file_is_never_accepted(name):
    check_cuts(LOSSLESS[name])


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "webp", "cmyk jpeg"])
def test_a_cut_lossy_file_is_never_accepted(name):
    check_cuts(LOSSY[name])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def check_cuts(content: bytes) -> None:
    for percent in range(10, 91):
        with pytest.raises(BadImage):
            decoded(content[: len(content) * percent // 100])


def peak_kilobytes() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)


@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [(20_000, 20_000, 50_000_000), (12_000, 9_000, 50_000_000), (9_500, 9_500, PIXEL_CEILING), (33, 31, 1000)],
)
def test_too_many_pixels_are_refused_by_the_header(width, height, limit):
    content = bilevel_png(width, height)
    if width * height <= limit:
        assert decoded(content, channels=1, max_pixels=limit).sum() == 0
        return
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = peak_kilobytes()
    with pytest.raises(BadImage, match="pixels"):
        decoded(content, max_pixels=limit)
    assert peak_kilobytes() - before < 20_000


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (20_000, 1), (1, 20_000)])
def test_odd_shapes_become_squares(size):
    assert decoded(encoded(Image.new("RGB", size, (9, 8, 7)))).unique().tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 9)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(80_000_000), 9)),
    ],
    ids=["zTXt", "iCCP"],
)
def test_compressed_text_bombs_are_refused(bomb):
    content = bilevel_png(8, 8, bomb)
    assert len(content) < 100_000
    with pytest.raises(BadImage, match="too large"):
        decoded(content)


RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def ramp_tiff(mode: str, **options: object) -> bytes:
    values = RAMP.astype(">u2") if mode == "I;16B" else RAMP
    return encoded(Image.frombytes(mode, (256, 256), values.tobytes()), "TIFF", **options)


@pytest.mark.parametrize(
    "content",
    [encoded(Image.fromarray(RAMP)), ramp_tiff("I;16"), ramp_tiff("I;16B"), ramp_tiff("I;16", compression="tiff_lzw")],
    ids=["png", "tiff", "big-endian tiff", "lzw tiff"],
)
def test_16_bit_grey_is_scaled(content):
    result = decoded(content, 256, 1)
    assert len(result.unique()) == 256
    assert torch.equal(result[0], torch.from_numpy(np.rint(RAMP / 257).astype(np.uint8)))


SIGNED = {TiffImagePlugin.SAMPLEFORMAT: 2}


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), {}, np.rint(np.linspace(0, 255, 64))),
        (np.linspace(0, 1.1, 64, dtype=np.float32), {}, None),
        (np.linspace(-0.1, 1, 64, dtype=np.float32), {}, None),
        (np.full(64, np.nan, dtype=np.float32), {}, None),
        (np.arange(64, dtype=np.int32), {}, None),
        ((np.arange(64) * 500).astype(np.uint16), {"tiffinfo": SIGNED}, np.rint(np.arange(64) * 500 / 257)),
        ((np.arange(64) * 1000).astype(np.uint16), {"tiffinfo": SIGNED}, None),
    ],
    ids=["float", "float above", "float below", "nan", "32-bit", "signed 16-bit", "negative 16-bit"],
)
def test_wide_numbers_are_scaled_or_refused(image, options, expected):
    content = encoded(Image.fromarray(image.reshape(8, 8)), "TIFF", **options)
    if expected is None:
        with pytest.raises(BadImage, match="black and white are unknown"):
            decoded(content, 8, 1)
    else:
        assert np.array_equal(decoded(content, 8, 1).flatten(), expected)


def half_transparent(kind: str) -> bytes:
    """Left half transparent over a hidden colour, right half white."""
    alpha = Image.fromarray(np.repeat([[0, 255]], 16, axis=1).repeat(32, axis=0).astype(np.uint8))
    opaque = np.array(alpha)[..., None] == 255
    hidden = Image.fromarray(np.where(opaque, 255, np.array([3, 2, 1])).astype(np.uint8))
    paletted, layered = hidden.quantize(2), hidden.copy()
    index = paletted.getpixel((0, 0))
    layered.putalpha(alpha)
    wide = Image.fromarray(np.where(opaque[..., 0], 65535, 77).astype(np.uint16))
    files = {
        "RGBA": lambda: encoded(layered),
        "LA": lambda: encoded(layered.convert("LA")),
        "RGB": lambda: encoded(hidden, transparency=(3, 2, 1)),
        "RGB 16 bit": wide_png,
        "L": lambda: encoded(alpha, transparency=0),
        "1": lambda: encoded(alpha.convert("1"), transparency=0),
        "I;16": lambda: encoded(wide, transparency=77),
        "P": lambda: encoded(paletted, transparency=index),
        "P bytes": lambda: encoded(paletted, transparency=bytes(0 if i == index else 255 for i in range(2))),
        "gif": lambda: encoded(paletted, "GIF", transparency=index),
        "webp": lambda: encoded(layered, "WEBP", lossless=True, exact=True),
    }
    return files[kind]()


def wide_png() -> bytes:
    """The same with 16 bits per sample, which Pillow reads but cannot write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)) + chunk(b"tRNS", b"\3\5\2\6\1\7")
    row = b"\0" + b"\3\5\2\6\1\7" * 16 + b"\xff" * 96
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 32)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("background", [0, 200])
@pytest.mark.parametrize("kind", ["RGBA", "LA", "RGB", "RGB 16 bit", "L", "1", "I;16", "P", "P bytes", "gif", "webp"])
def test_transparency_shows_the_background(kind, background):
    result = decoded(half_transparent(kind), background=background)
    assert result[:, :, :16].unique().tolist() == [background]
    assert result[:, :, 16:].unique().tolist() == [255]


def test_half_transparency_mixes():
    result = decoded(encoded(Image.new("RGBA", (4, 4), (100, 0, 200, 128))), 4, background=0)
    assert result[:, 0, 0].tolist() == pytest.approx([50, 0, 100], abs=1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation, kind):
    # The quarter turns undo each other, the others themselves.
    back = 14 - orientation if orientation in (6, 8) else orientation
    stored = NOISE.transpose(TURN[back]) if orientation > 1 else NOISE
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    assert torch.equal(decoded(encoded(stored, kind, exif=exif, **options)), pixels(NOISE))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_an_orientation_in_xmp_is_applied(kind: str) -> None:
    stored = SMOOTH.transpose(TURN[8])
    if kind == "PNG":
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
        content = encoded(stored)
        content = content[:33] + chunk(b"iTXt", text) + content[33:]
    else:
        content = encoded(stored, kind, xmp=XMP, **({"lossless": True} if kind == "WEBP" else {"quality": 100}))
    assert (decoded(content).int() - pixels(SMOOTH).int()).abs().max() <= 8
    assert torch.equal(decoded(content), torch.from_numpy(decode_pixels(content, 3, 32, max_pixels=LIMIT).copy()))


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [16, 32])
def test_pixels_alone_are_those_with_a_description(name: str, channels: int, image_size: int) -> None:
    content = LOSSLESS[name]
    alone = decode_pixels(content, channels, image_size, max_pixels=LIMIT)
    np.testing.assert_array_equal(alone, decoded(content, image_size, channels).numpy())


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("describe", [True, False])
def test_blocks_are_the_files_decoded_at_once(tmp_path: Path, size: int, describe: bool) -> None:
    contents = [*LOSSLESS.values(), b"", b"text", encoded(NOISE)[:400], encoded(SMOOTH)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i:02}.png").write_bytes(content)
    found = [Found(path.name, path.stat().st_size, 0) for path in sorted(tmp_path.iterdir())]
    whole = decode_files(tmp_path, found, Rules(3, 32, LIMIT, 255), lambda _: None)
    blocks = list(decode_blocks(tmp_path, found, Rules(3, 32, LIMIT, 255), size, describe=describe))
    assert [file for files, _ in blocks for file in files] == found
    assert torch.equal(torch.cat([part.pixels for _, part in blocks]), whole.pixels)
    assert [bad for _, part in blocks for bad in part.bad] == whole.bad
    assert len(whole.bad) == 3
    for name in ("digests", "sources"):
        assert [one for _, part in blocks for one in getattr(part, name)] == (getattr(whole, name) if describe else [])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_costs_no_pixels(exif):
    assert torch.equal(decoded(encoded(NOISE, exif=exif)), pixels(NOISE))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB under another name whose red and green have changed places."""
    content = SRGB.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    return content.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.mark.parametrize(
    ("mode", "colour", "profile", "expected"),
    [
        ("RGB", (255, 0, 0), swapped_profile(), (0, 255, 0)),
        ("RGBA", (255, 0, 0, 255), swapped_profile(), (0, 255, 0)),
        ("RGB", (255, 0, 0), SRGB, (255, 0, 0)),
        ("RGB", (255, 0, 0), b"no profile at all", (255, 0, 0)),
        ("RGB", (255, 0, 0), swapped_profile()[:200], (255, 0, 0)),
        ("CMYK", (90, 60, 30, 0), swapped_profile(), (165, 195, 225)),
        ("L", 90, swapped_profile(), (90, 90, 90)),
    ],
    ids=["swapped", "swapped rgba", "sRGB", "garbage", "cut", "misfit cmyk", "misfit grey"],
)
def test_colour_profiles_are_converted_where_usable(mode, colour, profile, expected):
    image = Image.new(mode, (8, 8), colour)
    result = decoded(encoded(image, "TIFF", icc_profile=profile), 8)[:, 0, 0]
    assert result.tolist() == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("width", "height", "left", "top"), [(80, 32, 24, 0), (32, 51, 0, 9), (32, 32, 0, 0)])
def test_the_central_square_is_cut_out_exactly(width, height, left, top):
    image = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert torch.equal(decoded(encoded(image)), pixels(image)[:, top : top + 32, left : left + 32])


@pytest.mark.parametrize("side", [64, 512, 37])
def test_resizing_is_antialiased(side):
    board = Image.fromarray((np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8))
    inner = decoded(encoded(board), 16, 1)[:, 2:-2, 2:-2].int()
    assert (inner - 127).abs().max() <= 12


def test_a_folder_of_odd_files_leaks_neither_warnings_nor_filters(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + bytes.fromhex("12010300ffffffffff00000000") * 2
    for i, content in enumerate([encoded(NOISE, exif=exif), half_transparent("P bytes"), *LOSSLESS.values()] * 20):
        (tmp_path / f"{i}.png").write_bytes(content)
    found = [Found(path.name, path.stat().st_size, 0) for path in sorted(tmp_path.iterdir())]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        assert not decode_files(tmp_path, found, Rules(3, 32, LIMIT, 255), print).bad
        assert list(warnings.filters) == inside
    assert not caught


@pytest.mark.parametrize("name", [*LOSSLESS, *LOSSY])
def test_mutated_files_are_decoded_or_refused(name):
    original, chance = LOSSLESS.get(name) or LOSSY[name], random.Random(name)
    for _ in range(60):
        content = bytearray(original)
        for _ in range(chance.choice([1, 2, 8])):
            content[chance.randrange(min(len(content), chance.choice([40, 200, 4000])))] = chance.randrange(256)
        with suppress(BadImage):
            assert decoded(bytes(content)).shape == (3, 32, 32)

"""Pictures of any kind become the same pixels, or are refused with a remedy."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vae_lab.data.files.decode import decode
from vae_lab.data.images import ImageSet, scaled
from vae_lab.data.pictures import Preparation, model_input, read_pictures, read_preparation
from vae_lab.data.sample import Sample
from vae_lab.errors import DataError


@dataclass
class Takes:
    """A model of images of one size."""

    channels: int = 1
    image_size: int = 16
    preparation: Preparation = field(default_factory=Preparation)


GREY, COLOUR = Takes(), Takes(channels=3)
GENERATOR = np.random.default_rng(0)
ONE = GENERATOR.integers(0, 256, (16, 16), dtype=np.uint8)
RGB = GENERATOR.integers(0, 256, (16, 16, 3), dtype=np.uint8)
LARGE = GENERATOR.integers(0, 256, (40, 30, 3), dtype=np.uint8)
RGBA = np.concatenate([LARGE, GENERATOR.integers(0, 256, (40, 30, 1), dtype=np.uint8)], 2)
T = torch.from_numpy


def saved(folder: Path, pixels: np.ndarray, name: str = "a.png") -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def decoded(folder: Path, pixels: np.ndarray, takes: Takes) -> torch.Tensor:
    """What a PNG of these pixels is read as."""
    content = saved(folder, pixels, "expected.png").read_bytes()
    return decode(content, takes.channels, takes.image_size, max_pixels=10**6).pixels


SAME: dict[str, tuple[Callable[[Path], object], np.ndarray, Takes]] = {
    "HW": (lambda _: ONE, ONE, GREY),
    "CHW of one": (lambda _: ONE[None], ONE, GREY),
    "HWC of one": (lambda _: ONE[..., None], ONE, GREY),
    "NCHW": (lambda _: ONE[None, None], ONE, GREY),
    "NHWC": (lambda _: ONE[None, ..., None], ONE, GREY),
    "floats": (lambda _: ONE / 255, ONE, GREY),
    "half": (lambda _: (T(LARGE).permute(2, 0, 1) / 255).half(), LARGE, COLOUR),
    "a view turned twice": (lambda _: ONE[::-1].copy()[::-1], ONE, GREY),
    "tensor": (lambda _: T(ONE), ONE, GREY),
    "tensor with gradients": (lambda _: (T(ONE) / 255).requires_grad_(), ONE, GREY),
    "colour, HWC": (lambda _: RGB, RGB, COLOUR),
    "colour, CHW": (lambda _: T(RGB).permute(2, 0, 1), RGB, COLOUR),
    "colour for grey": (lambda _: RGB, RGB, GREY),
    "grey for colour": (lambda _: ONE, ONE, COLOUR),
    "another size": (lambda _: LARGE, LARGE, COLOUR),
    "another size, for grey": (lambda _: T(LARGE).permute(2, 0, 1)[None] / 255, LARGE, GREY),
    "transparent": (lambda _: RGBA, RGBA, COLOUR),
    "PIL": (lambda _: Image.fromarray(LARGE), LARGE, COLOUR),
    "PIL, transparent": (lambda _: Image.fromarray(RGBA), RGBA, GREY),
    "PIL, opened": (lambda folder: Image.open(saved(folder, RGBA)), RGBA, COLOUR),
    "path": (lambda folder: saved(folder, LARGE), LARGE, COLOUR),
    "text": (lambda folder: str(saved(folder, LARGE)), LARGE, GREY),
    "list": (lambda _: [ONE], ONE, GREY),
    "tuple of a PIL": (lambda _: (Image.fromarray(ONE),), ONE, GREY),
    "sample of one": (lambda _: Sample(T(ONE)[None] / 255, torch.tensor(3)), ONE, GREY),
    "a batch of a DataLoader": (lambda _: [T(ONE)[None, None] / 255, torch.tensor([3])], ONE, GREY),
    "a set": (lambda _: ImageSet(T(ONE)[None, None], torch.tensor([3])), ONE, GREY),
}


@pytest.mark.parametrize("name", SAME)
def test_a_picture_has_the_pixels_of_its_file(name: str, tmp_path: Path) -> None:
    make, pixels, takes = SAME[name]
    read = read_pictures(make(tmp_path), takes)
    found = model_input(read.pixels, takes)
    assert not found.requires_grad
    torch.testing.assert_close(found.float(), scaled(decoded(tmp_path, pixels, takes)[None]), atol=1e-6, rtol=0)
    labelled = name in ("sample of one", "a batch of a DataLoader", "a set")
    assert (None if read.labels is None else read.labels.tolist()) == ([3] if labelled else None)


def test_floats_of_the_models_size_are_not_rounded() -> None:
    images = torch.rand(2, 1, 16, 16)
    assert read_pictures(images, GREY).pixels.equal(images)
    assert read_pictures(images.numpy(), GREY).pixels.equal(images)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    deep = Image.fromarray(ONE.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    for held in (deep, Image.open(tmp_path / "deep.png"), tmp_path / "deep.png"):
        assert read_pictures(held, GREY).pixels[0, 0].equal(T(ONE))


def test_the_caller_s_picture_is_not_changed() -> None:
    image = Image.fromarray(RGB)
    image.info["transparency"] = (600, 600, 600)  # of 16 bits, of which the pixels kept the high ones
    before = (image.tobytes(), image.mode, image.size, dict(image.info))
    read_pictures(image, GREY)
    assert (image.tobytes(), image.mode, image.size, dict(image.info)) == before


def test_several_keep_their_order(tmp_path: Path) -> None:
    second, first = saved(tmp_path, ONE, "b.png"), saved(tmp_path, 255 - ONE, "a.png")
    expected = torch.stack([T(ONE), T(255 - ONE), T(ONE)])[:, None]
    for held in ([second, first, second], [T(ONE), str(first), Image.fromarray(ONE)], [ONE[None], 255 - ONE, ONE]):
        assert read_pictures(held, GREY).pixels.equal(expected)
    assert read_pictures(tmp_path, GREY).pixels.equal(expected[1:])
    assert read_pictures(str(tmp_path / "?.png"), GREY).pixels.equal(expected[1:])
    mixed = read_pictures([ONE, ONE / 255], GREY).pixels
    torch.testing.assert_close(mixed[0], mixed[1].float(), check_dtype=False)


def test_many_grey_images_need_no_axis_of_channels_for_a_grey_model() -> None:
    many = GENERATOR.integers(0, 256, (7, 16, 16), dtype=np.uint8)
    assert read_pictures(many, GREY).pixels.equal(T(many)[:, None])
    with pytest.raises(ValueError, match=r"shape \[7, 16, 16\] fit none of the layouts .*; layout=NHW reads grey"):
        read_pictures(many, COLOUR)
    assert len(read_pictures(many, COLOUR, "NHW").pixels) == 7


AMBIGUOUS = {
    "three grey or one colour": ((3, 16, 16), {"CHW": 1, "NHW": 3}),
    "rows or columns of three": ((3, 16, 3), {"CHW": 1, "HWC": 1}),
    "a batch of either": ((2, 3, 16, 3), {"NCHW": 2, "NHWC": 2}),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_shape_of_two_layouts_is_refused_and_read_by_name(name: str) -> None:
    shape, layouts = AMBIGUOUS[name]
    with pytest.raises(ValueError, match=f"fit the layouts {' and '.join(layouts)}; .* layout="):
        read_pictures(np.zeros(shape), GREY)
    for layout, n in layouts.items():
        assert read_pictures(np.zeros(shape), GREY, layout).pixels.shape == (n, 1, 16, 16)


WRONG: dict[str, tuple[object, str | None, str]] = {
    "0 to 255 as floats": (ONE.astype(float), None, r"pixels must lie in \[0, 1\], not 0 to 25.; divide .* uint8"),
    "-1 to 1": (2 * (ONE / 255) - 1, None, r"map those from -1 to 1 by \(x \+ 1\) / 2"),
    "whole numbers": (ONE.astype(int), None, "floats in .* or uint8, not torch.int64; convert them"),
    "texts": (np.array(["a"]), None, "or uint8, not <U1; convert them"),
    "not finite": (np.full((16, 16), np.nan), None, "256 pixels are not finite"),
    "seven channels": (np.zeros((2, 16, 16, 7)), None, "fit none of the layouts .* convert them"),
    "a row": (np.zeros(256), None, "fit none of the layouts"),
    "no rows": (np.zeros((0, 16), np.uint8), None, "at least one pixel"),
    "another layout": (ONE, "NCHW", r"shape \[16, 16\] fit not layout=NCHW"),
    "an unknown layout": (ONE, "WH", "layout must be one of HW, CHW, .*, not WH"),
    "seven channels by name": (np.zeros((2, 16, 16, 7)), "NHWC", "fit not layout=NHWC"),
    "nothing": ([], None, "names no picture"),
    "a number": (5, None, "images has a int; give PIL images, paths"),
    "no picture in a list": ([ONE, None], None, r"images\[1\]: images has a NoneType"),
    "floats of an unknown range": (
        Image.fromarray(ONE.astype(np.float32)),
        None,
        "this PIL image cannot be used .*unknown.*; convert it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_picture_is_refused(name: str) -> None:
    held, layout, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        read_pictures(held, GREY, layout)


@pytest.mark.parametrize("name", ["missing.png", "text.png", "."])
def test_a_file_that_is_no_picture_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"missing\.png cannot be read|text\.png is not a usable image \(not an image"):
        read_pictures([tmp_path / name], GREY)


def test_a_run_s_pictures_are_prepared_as_its_data(tmp_path: Path) -> None:
    data: dict[str, Any] = {"max_pixels": 500, "background": 0, "binarize": "dynamic"}
    preparation = read_preparation(data)
    assert preparation == Preparation(500, 0, binary=True)
    assert read_preparation({}) == Preparation()
    with pytest.raises(DataError, match="must be whole numbers"):
        read_preparation({"background": "white"})
    clear = Image.fromarray(np.zeros((16, 16, 4), np.uint8))
    assert read_pictures(clear, Takes(preparation=preparation)).pixels.eq(0).all()
    assert read_pictures(clear, GREY).pixels.eq(255).all()
    for held in (Image.fromarray(LARGE), saved(tmp_path, LARGE)):
        with pytest.raises((ValueError, DataError), match=r"more than data\.max_pixels=500"):
            read_pictures(held, Takes(preparation=preparation))
    binary = Takes(preparation=preparation)
    drawn = model_input(read_pictures(ONE, binary).pixels, binary)
    assert drawn.unique().tolist() == [0.0, 1.0]
    assert model_input(drawn, binary).equal(drawn)
    assert model_input(torch.empty(0, 1, 16, 16), binary).shape == (0, 1, 16, 16)


def test_an_image_of_a_set_is_a_sample() -> None:
    images = ImageSet(torch.arange(5, dtype=torch.uint8).expand(16, 16, 1, 5).permute(3, 2, 0, 1), torch.arange(5))
    assert images[-1].image.shape == (1, 16, 16)
    assert (images[3].label, images[-1].label) == (3, 4)
    assert [int(label) for _, label in images] == [0, 1, 2, 3, 4]
    assert images[1:3].image.shape == (2, 1, 16, 16)
    with pytest.raises(IndexError):
        images[5]

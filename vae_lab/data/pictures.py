"""Pictures as people hold them, converted to the pixels that a model takes.

A picture is a PIL image, a path, an array, a tensor or a `Sample`. Pixels are uint8, or floats in [0, 1].

1. An array or tensor has one of the layouts HW, CHW, HWC, NHW, NCHW and NHWC, with N images, H rows, W columns and C
   channels: 1 is grey, 3 is colour, and 4, which must be last, is colour with transparency. NHW is read for grey models
   alone, because [3, H, W] is a colour image for others. A shape that fits two layouts is refused.
2. A tensor of the model's size and channels is used as it is.
3. Anything else is rounded to 8 bits, converted to grey or colour, cropped to the central square and resized, as image
   files are (`vae_lab.data.files.decode`).
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from vae_lab.data.binarize import prepared
from vae_lab.data.files.cache import Rules, decode_files
from vae_lab.data.files.decode import PIXEL_CEILING, BadImage, square_of
from vae_lab.data.files.listing import Bad, printable
from vae_lab.data.files.places import find
from vae_lab.data.grids import to_uint8
from vae_lab.data.images import ImageSet, require_range, scaled
from vae_lab.data.sample import Sample
from vae_lab.errors import DataError, require_choice
from vae_lab.system.atomic import expand_wildcards
from vae_lab.system.folders import expanded

LAYOUTS = ("HW", "CHW", "HWC", "NHW", "NCHW", "NHWC")
NARROWEST = 5
"""Rows and columns below which a grey image without a channel axis is not recognised."""

Picture = Image.Image | str | os.PathLike[str] | np.ndarray | Tensor | Sample | ImageSet
Pictures = Picture | Sequence[Picture]
"""One picture or several. A path may be that of a folder, which stands for its images in the order of their paths."""


class Preparation(NamedTuple):
    """How a run's images were made from pictures, beside their size and channels.

    Attributes:
        max_pixels: pictures with more pixels are refused.
        background: grey level, 0 to 255, of the background of transparent pictures.
        binary: whether images are binarized; one from outside is, with a seed from its own content.
    """

    max_pixels: int = PIXEL_CEILING
    background: int = 255
    binary: bool = False


@runtime_checkable
class TakesImages(Protocol):
    """A model of images of one size."""

    channels: int
    image_size: int
    preparation: Preparation


class Pixels(NamedTuple):
    """Images of a model's size and channels, as uint8 or as floats in [0, 1], and their labels if they have any."""

    pixels: Tensor
    labels: Int64[Tensor, " n"] | None = None


def read_preparation(data: dict[str, Any]) -> Preparation:
    """Return how the images of a run are prepared, from its stored `data` config.

    Raises:
        DataError: if a setting is not a whole number.
    """
    found = {name: data[name] for name in ("max_pixels", "background") if name in data}
    odd = {name: value for name, value in found.items() if not isinstance(value, int)}
    if odd:
        raise DataError(f"the run's stored config has {odd} for its images, which must be whole numbers.")
    return Preparation(**found, binary=data.get("binarize") is not None)


def file_rules(model: TakesImages) -> Rules:
    """Return the rules by which image files are decoded for a model."""
    return Rules(model.channels, model.image_size, model.preparation.max_pixels, model.preparation.background)


def model_input(pixels: Tensor, model: TakesImages) -> Float[Tensor, "n channels height width"]:
    """Return pixels of `read_pictures` as floats in [0, 1], binarized if the run's images are."""
    if model.preparation.binary and len(pixels):
        return prepared(to_uint8(pixels) if pixels.is_floating_point() else pixels.cpu(), binary=True)
    return scaled(pixels) if pixels.dtype == torch.uint8 else pixels


def read_pictures(images: object, model: TakesImages, layout: str | None = None) -> Pixels:
    """Return pictures of any kind as [n, channels, size, size] pixels of a model, with their labels if they have any.

    Args:
        images: see `Pictures`.
        model: has the size, the channels and the preparation of the images.
        layout: the axes of arrays and tensors, such as "HWC"; None recognises them.

    Raises:
        DataError: if a file is missing or is not a usable image.
        ValueError: if the values, the shape or the type of an array is not that of images, or fits two layouts.
    """
    if layout is not None:
        require_choice("layout", layout, LAYOUTS)
    if isinstance(images, ImageSet):
        return _fitted(images.pixels(slice(None)), model, images.labels)
    if isinstance(images, Sample):
        image, label = images if images.image.ndim == 4 else (part[None] for part in images)
        return _fitted(image, model, label)
    if isinstance(images, Sequence) and not isinstance(images, str):
        return _read_several(images, model, layout)
    if isinstance(images, Image.Image):
        return Pixels(_square(images, model)[None])
    if isinstance(images, str | os.PathLike):
        return _read_files([images], model)
    return _fitted(channels_first(as_tensor(images), layout, grey=model.channels == 1), model)


def _read_several(images: Sequence[object], model: TakesImages, layout: str | None) -> Pixels:
    """Return the pixels of a sequence of pictures, in its order, or of an (images, labels) batch of a DataLoader."""
    if not len(images):
        raise ValueError("images names no picture; give at least one.")
    if len(images) == 2 and isinstance(images[0], Tensor) and is_labels(images[1]):
        return read_pictures(images[0], model, layout)._replace(labels=images[1])
    if all(isinstance(one, str | os.PathLike) for one in images):
        return _read_files(images, model)
    parts: list[Pixels] = []
    for number, one in enumerate(images):
        try:
            parts.append(read_pictures(one, model, layout))
        except ValueError as error:
            raise ValueError(f"images[{number}]: {error}") from None
    pixels = [part.pixels.to(parts[0].pixels.device) for part in parts]
    if any(part.is_floating_point() for part in pixels):
        pixels = [scaled(part) if part.dtype == torch.uint8 else part for part in pixels]
    labels = [part.labels for part in parts if part.labels is not None]
    return Pixels(torch.cat(pixels), torch.cat(labels) if len(labels) == len(parts) else None)


def is_labels(value: object) -> bool:
    """Return whether a value is a tensor of class numbers."""
    return isinstance(value, Tensor) and value.ndim == 1 and value.dtype == torch.int64


def _read_files(paths: Sequence[Any], model: TakesImages) -> Pixels:
    """Return the pixels of image files, each path in its place, and a folder's images in the order of their paths."""
    places = [find(path) for path in expand_wildcards([expanded(path) for path in paths], "images")]
    for bad in (bad for place in places for bad in place.unreadable):
        _refuse(bad)
    files = [file._replace(path=str(place.root / file.path)) for place in places for file in place.files]
    return Pixels(decode_files(Path(), files, file_rules(model), _refuse).pixels)


def _refuse(bad: Bad) -> None:
    raise DataError(f"{printable(bad.path)} is not a usable image ({bad.reason}); leave it out of images.")


def _square(image: Image.Image, model: TakesImages) -> Tensor:
    """Return the uint8 pixels of Pillow's image.

    Raises:
        ValueError: if the image cannot be used.
    """
    rules = file_rules(model)
    try:
        return square_of(
            image, rules.channels, rules.image_size, max_pixels=rules.max_pixels, background=rules.background
        )
    except BadImage as bad:
        raise ValueError(f"this PIL image cannot be used ({bad}); convert it to mode L or RGB.") from bad


def as_tensor(array: object) -> Tensor:
    """Return an array as a tensor, and a tensor without its gradients.

    Raises:
        ValueError: if it is neither, or its numbers are of a type that torch does not have.
    """
    if isinstance(array, Tensor):
        return array.detach()
    if not isinstance(array, np.ndarray):
        raise ValueError(
            f"images has a {type(array).__name__}; give PIL images, paths, NumPy arrays, tensors or samples."
        )
    try:
        return torch.from_numpy(np.array(array))  # a copy, because torch has no negative strides
    except TypeError as error:
        raise ValueError(f"pixels must be floats in [0, 1] or uint8, not {array.dtype}; convert them.") from error


def channels_first(array: Tensor, layout: str | None, *, grey: bool) -> Tensor:
    """Return an array of one of the `LAYOUTS` as [n, channels, height, width].

    Args:
        array: of images.
        layout: its axes; None recognises them.
        grey: whether the images are for a grey model.

    Raises:
        ValueError: if the shape fits no layout, not the given one, or more than one.
    """
    shape = list(array.shape)
    possible = [name for name in LAYOUTS if _fits(shape, name, grey=grey)] if layout is None else [layout]
    if shape[:1] == [1] and {"CHW", "NHW"} <= {*possible}:
        possible.remove("NHW")  # either is one grey image
    if len(possible) > 1:
        raise ValueError(
            f"images of the shape {shape} fit the layouts {' and '.join(possible)}; name the right one with layout=."
        )
    if not possible or len(possible[0]) != len(shape) or not _has_pixels(shape, possible[0]):
        named = "none of the layouts HW, CHW, HWC, NHW, NCHW and NHWC" if layout is None else f"not layout={layout}"
        remedy = "; layout=NHW reads grey images" if layout is None and len(shape) == 3 else ""
        raise ValueError(
            f"images of the shape {shape} fit {named} with 1 channel (grey) or 3 (colour) and at least one"
            f" pixel{remedy}; convert them."
        )
    axes = possible[0]
    for name in ("C", "N"):
        if name not in axes:
            array, axes = array[None], name + axes
    return array.permute(*(axes.index(name) for name in "NCHW"))


def _fits(shape: Sequence[int], layout: str, *, grey: bool) -> bool:
    """Return whether a shape can have a layout; see the module's docstring."""
    if len(shape) != len(layout):
        return False
    size = dict(zip(layout, shape, strict=True))
    if layout == "NHW":
        return grey and min(size["H"], size["W"]) >= NARROWEST
    return size.get("C", 1) in ((1, 3, 4) if layout.endswith("C") else (1, 3))


def _has_pixels(shape: Sequence[int], layout: str) -> bool:
    """Return whether a shape of a layout has 1, 3 or 4 channels, and rows and columns."""
    size = dict(zip(layout, shape, strict=True))
    return size.get("C", 1) in (1, 3, 4) and min(size["H"], size["W"]) > 0


def _fitted(images: Tensor, model: TakesImages, labels: Int64[Tensor, " n"] | None = None) -> Pixels:
    """Return images [n, 1, 3 or 4, height, width] in a model's size and channels, and their labels."""
    require_range(images)
    if list(images.shape[1:]) == [model.channels, model.image_size, model.image_size]:
        return Pixels(images, labels)
    pixels = images.cpu() if images.dtype == torch.uint8 else to_uint8(images)
    rows = pixels.permute(0, 2, 3, 1).numpy()
    squares = [_square(Image.fromarray(row[:, :, 0] if row.shape[2] == 1 else row), model) for row in rows]
    empty = torch.empty(0, model.channels, model.image_size, model.image_size, dtype=torch.uint8)
    return Pixels(torch.stack(squares) if squares else empty, labels)

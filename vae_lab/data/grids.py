"""Arrangement of images in a grid of uint8 pixels."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

Image = Float[Tensor, "batch channels height width"]
Grid = UInt8[Tensor, "3 gridheight gridwidth"]
SMALLEST_TILE = 56
GAP_BRIGHTNESS = 0.35
THUMBNAIL = 48
"""Largest side of a thumbnail in pixels."""


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Return pixels in [0, 1] rounded to integers from 0 to 255, on the CPU."""
    return (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def grid(images: Image, ncolumns: int) -> Grid:
    """Return the images tiled into one, `ncolumns` per row; those below 56 pixels are enlarged by an integer factor."""
    factor = -(-SMALLEST_TILE // images.shape[-1])
    large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return to_uint8(make_grid(large, nrow=ncolumns, padding=2, pad_value=GAP_BRIGHTNESS))


def paired(above: Image, below: Image, ncolumns: int) -> Float[Tensor, "both channels height width"]:
    """Return two batches interleaved for `grid`: each row of `above` is followed by the matching row of `below`."""
    blank = above.new_full((-len(above) % ncolumns, *above.shape[1:]), GAP_BRIGHTNESS)  # fills the last row
    rows = zip(torch.cat([above, blank]).split(ncolumns), torch.cat([below, blank]).split(ncolumns), strict=True)
    return torch.cat([torch.cat(pair) for pair in rows])


def thumbnails(pixels: UInt8[Tensor, "n channels height width"]) -> UInt8[Tensor, "n channels side side"]:
    """Return images reduced to at most `THUMBNAIL` pixels in height and width."""
    if not len(pixels) or pixels.shape[-1] <= THUMBNAIL:
        return pixels
    return interpolate(pixels.float(), size=(THUMBNAIL, THUMBNAIL), mode="area").round().to(torch.uint8)

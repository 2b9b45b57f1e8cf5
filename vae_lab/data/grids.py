"""Images laid out as a grid, and their bytes."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.utils import make_grid

Image = Float[Tensor, "batch channels height width"]


Grid = UInt8[Tensor, "3 gridheight gridwidth"]


SMALLEST_TILE = 56


GAP_BRIGHTNESS = 0.35


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Return pixels in [0, 1] as whole numbers from 0 to 255, rounded, on the CPU."""
    return (images.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def grid(images: Image, ncolumns: int) -> Grid:
    """Return the images in rows of `ncolumns`, small ones enlarged by whole factors so that they can be looked at."""
    factor = -(-SMALLEST_TILE // images.shape[-1])
    large = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return to_uint8(make_grid(large, nrow=ncolumns, padding=2, pad_value=GAP_BRIGHTNESS))


def paired(above: Image, below: Image, ncolumns: int) -> Float[Tensor, "both channels height width"]:
    """Return the images in an order that `grid` lays out as rows of the first with the matching ones under each."""
    blank = above.new_full((-len(above) % ncolumns, *above.shape[1:]), GAP_BRIGHTNESS)  # else a short row is misaligned
    rows = zip(torch.cat([above, blank]).split(ncolumns), torch.cat([below, blank]).split(ncolumns), strict=True)
    return torch.cat([torch.cat(pair) for pair in rows])

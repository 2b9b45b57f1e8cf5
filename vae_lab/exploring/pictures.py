"""Pictures of the page as PNG files."""

import base64

from jaxtyping import Float
from torch import Tensor

from vae_lab.data.grids import grid, to_uint8
from vae_lab.latents.tables import png_bytes

SIDE = 320
"""Pixels a side to which single images are enlarged by a whole factor."""
WIDTH = 720
"""Pixels to which rows of images are enlarged by a whole factor, unless a wider one is named."""

Images = Float[Tensor, "n channels height width"]


def image_png(image: Float[Tensor, "channels height width"]) -> bytes:
    """Return an image as a PNG, enlarged by the largest whole factor with at most `SIDE` pixels a side."""
    return png_bytes(to_uint8(enlarged(image[None], SIDE)[0]))


def grid_png(images: Images, ncolumns: int, width: int = WIDTH) -> bytes:
    """Return rows of `ncolumns` images as a PNG, enlarged by the largest whole factor with at most `width` pixels."""
    return png_bytes(grid(enlarged(images, width // ncolumns), ncolumns))


def enlarged(images: Images, side: int) -> Float[Tensor, "n channels large large"]:
    """Return images enlarged by the largest whole factor with at most `side` pixels a side, and at least 1."""
    factor = max(1, side // images.shape[-1])
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def data_url(png: bytes) -> str:
    """Return a PNG as a URL that contains it, which saves the browser a request."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"

"""Resizing of MNIST, Fashion-MNIST and the digits to `data.image_size`."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import interpolate


def resized(
    pixels: UInt8[Tensor, "n 1 height width"], channels: int, image_size: int
) -> UInt8[Tensor, "n channels size size"]:
    """Return grey images resized by antialiased bicubic interpolation, if necessary, and repeated in each channel."""
    if pixels.shape[-1] != image_size:
        parts = (
            interpolate(part.float(), size=(image_size, image_size), mode="bicubic", antialias=True)
            .clamp(0, 255)
            .round()
            for part in pixels.split(4096)
        )
        pixels = torch.cat([part.to(torch.uint8) for part in parts])
    return pixels.expand(-1, channels, -1, -1).contiguous()

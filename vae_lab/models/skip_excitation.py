"""A decoder of upsampling convolutions with skip-layer excitation, the generator of Liu et al. 2021 (FastGAN).

https://arxiv.org/abs/2101.04775. At 64x64 pixels:

    z -> sphere -> 4x4 -> [double, 3x3 convolution, BatchNorm, GLU] at 8, 16, 32, 64 -> 3x3 convolution -> image
                   4x4 excites 32x32, 8x8 excites 64x64

The latent vector is normalised to the sphere, so its length has no effect on the image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import require_count

SMALLEST = 4
REACH = 3
"""Doublings between a feature map and the one that it excites."""


def gated(x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout height width"]:
    """Return a * sigmoid(b) for the first half a and the second half b of the channels.

    `torch.nn.functional.glu` returns gradients that are contiguous, not channels-last, with which batch normalisation
    is several times as slow.
    """
    a, b = x.chunk(2, dim=1)
    return a * b.sigmoid()


def doubling_weight(weight: Float[Tensor, "nout nin 3 3"]) -> Float[Tensor, "nin nout 4 4"]:
    """Return the weight of a transposed convolution that equals nearest-neighbour upsampling and a convolution.

    The transposed convolution has stride 2 and padding 1, the convolution padding 1. The former multiplies 4 instead of
    9 times for each input channel, output channel and pixel.
    """
    for dim in (2, 3):
        first, second, third = weight.unbind(dim)
        weight = torch.stack([third, second + third, first + second, first], dim)
    return weight.transpose(0, 1)


class UpBlock(nn.Module):
    """Doubling, convolution, BatchNorm and gated linear unit: [B, nin, h, w] -> [B, nout, 2h, 2w].

    Args:
        nin: input channels.
        nout: output channels.
        noise: whether noise with a learned scale is added in training, one value for each place.
    """

    def __init__(self, nin: int, nout: int, *, noise: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(nin, 2 * nout, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2 * nout)
        self.noise_scale = nn.Parameter(torch.zeros(())) if noise else None

    def forward(self, x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout height2 width2"]:
        """Return the block's output at twice the size."""
        x = F.conv_transpose2d(x, doubling_weight(self.convolution.weight), stride=2, padding=1)
        if self.noise_scale is not None and self.training:
            x = x + self.noise_scale * torch.randn_like(x[:, :1])
        return gated(self.norm(x))


class Pooling(nn.Module):
    """The means of a square feature map in 4x4 places: [B, n, 4k, 4k] -> [B, n, 4, 4].

    `torch.nn.AdaptiveAvgPool2d` has no deterministic gradient on CUDA (`trainer.deterministic`).
    """

    def forward(self, x: Float[Tensor, "batch n height width"]) -> Float[Tensor, "batch n 4 4"]:
        """Return the means."""
        return F.avg_pool2d(x, x.shape[-1] // SMALLEST)


class Excitation(nn.Module):
    """A factor in (0, 1) for each channel of a large feature map, from a small one: [B, nin, h, w] -> [B, nout, 1, 1].

    Liu et al. 2021, equation 2, https://arxiv.org/abs/2101.04775.
    """

    def __init__(self, nin: int, nout: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Pooling(), nn.Conv2d(nin, nout, 4), nn.SiLU(), nn.Conv2d(nout, nout, 1), nn.Sigmoid()
        )

    def forward(self, x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout 1 1"]:
        """Return the factors."""
        return self.layers(x)


class SkipExcitationDecoder(nn.Module):
    """Upsampling blocks from 4x4, with skip-layer excitation across three doublings: [B, nin] -> [B, nout, k, k].

    Blocks are numbered from the smallest, so that a decoder of 128x128 can start from the weights of one of 64x64.

    Args:
        nin: length of the latent vector.
        image_size: height and width of the image; 4 times a power of 2, at least 16.
        nout: outputs for each pixel.
        widths: channels at 4x4, 8x8 and so on; the last repeats as needed.
        noise: whether noise is added in training. In evaluation there is none, so that p(x | z) is a density.

    Attributes:
        ignores_length: the output does not depend on the length of the latent vector.

    Raises:
        ValueError: if the image size is none of these.
    """

    ignores_length = True

    def __init__(self, nin: int, image_size: int, nout: int, *, widths: Sequence[int], noise: bool = False) -> None:
        super().__init__()
        ndoublings = (image_size // SMALLEST).bit_length() - 1
        if image_size != SMALLEST * 2**ndoublings or ndoublings < 2:
            raise ValueError(
                f"data.image_size={image_size}: this decoder doubles 4x4 pixels; choose 16, 32, 64, 128 or 256, or"
                " model=resnet."
            )
        for width in widths:
            require_count("model.decoder.widths", width)
        channels = [widths[min(level, len(widths) - 1)] for level in range(ndoublings + 1)]
        self.nin = nin
        self.start = nn.Sequential(
            nn.ConvTranspose2d(nin, 2 * channels[0], SMALLEST, bias=False), nn.BatchNorm2d(2 * channels[0]), nn.GLU(1)
        )
        self.blocks = nn.ModuleList(UpBlock(*pair, noise=noise) for pair in pairwise(channels))
        self.excitations = nn.ModuleList(Excitation(*pair) for pair in zip(channels, channels[REACH:], strict=False))
        self.output = nn.Conv2d(channels[-1], nout, 3, padding=1)

    def forward(self, z: Float[Tensor, "batch nin"]) -> Float[Tensor, "batch nout height width"]:
        """Return the network's `nout` outputs for each pixel."""
        z = F.normalize(z, dim=1) * self.nin**0.5
        maps = [self.start(z[:, :, None, None])]
        for level, block in enumerate(self.blocks, start=1):
            x = block(maps[-1])
            maps.append(x if level < REACH else x * self.excitations[level - REACH](maps[level - REACH]))
        return self.output(maps[-1])

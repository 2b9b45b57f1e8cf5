"""Convolutional encoder and decoder for any image size.

Widths 64, 64, 64, kernel 4, padding 2 and strides 2, 2, 1 give our reading of the networks of the 2018 project, whose
source names three convolutions, 5184 features and latent size 8:

    28x28 -> 15x15 -> 8x8 -> 9x9, flattened to 64 * 9 * 9 = 5184, and back.
"""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.models.conv_transpose import TransposedConv2d


def conv_sizes(image_size: int, kernel: int, padding: int, strides: Sequence[int]) -> list[int]:
    """Return the spatial size before and after each convolution: [image_size, …].

    Raises:
        ValueError: if the image is too small for the stack.
    """
    sizes = [image_size]
    for stride in strides:
        sizes.append((sizes[-1] + 2 * padding - kernel) // stride + 1)
    if min(sizes) < 1 or image_size + 2 * padding < kernel:
        raise ValueError(f"data.image_size={image_size} is too small for convolutions with kernel {kernel}: {sizes}.")
    return sizes


def check_stack(widths: Sequence[int], strides: Sequence[int], kernel: int) -> None:
    """Raise ValueError unless widths, strides and kernel are positive, and there are as many widths as strides."""
    if len(widths) != len(strides) or not widths:
        raise ValueError(f"widths {list(widths)} and strides {list(strides)} must have the same length, at least 1.")
    if min(*widths, *strides, kernel) < 1:
        raise ValueError(f"widths {list(widths)}, strides {list(strides)} and kernel {kernel} must be positive.")


class ConvEncoder(nn.Module):
    """Strided convolutions with leaky ReLUs, then one linear map: [B, nin, k, k] -> [B, nout]."""

    def __init__(
        self,
        nin: int,
        image_size: int,
        nout: int,
        *,
        widths: Sequence[int],
        strides: Sequence[int],
        kernel: int,
        padding: int,
        slope: float,
    ) -> None:
        super().__init__()
        check_stack(widths, strides, kernel)
        size = conv_sizes(image_size, kernel, padding, strides)[-1]
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise([nin, *widths]), strides, strict=True):
            layers += [nn.Conv2d(before, after, kernel, stride, padding), nn.LeakyReLU(slope, inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1] * size * size, nout)

    def forward(self, image: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout"]:
        """Return the network's `nout` outputs for each image."""
        features = self.convolutions(image).permute(0, 2, 3, 1)  # channels-last in memory, so flattening copies nothing
        return self.head(features.flatten(1))


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`, a linear map and transposed convolutions: [B, nin] -> [B, nout, k, k].

    Args:
        nin: number of latents.
        image_size: height and width of the output image.
        nout: output channels.
        widths: channels after each convolution of the encoder; the decoder reverses them.
        strides: strides of the encoder; the decoder reverses them.
        kernel: kernel size.
        padding: zero padding on each side.
        slope: negative slope of the leaky ReLU.
        output_bias: initial value of the last layer's bias; None keeps torch's random initialization. The logit of the
            mean pixel, -1.9 for MNIST, shortens training.
    """

    def __init__(
        self,
        nin: int,
        image_size: int,
        nout: int,
        *,
        widths: Sequence[int],
        strides: Sequence[int],
        kernel: int,
        padding: int,
        slope: float,
        output_bias: float | None,
    ) -> None:
        super().__init__()
        check_stack(widths, strides, kernel)
        sizes = conv_sizes(image_size, kernel, padding, strides)
        self.shape = (sizes[-1], sizes[-1], widths[-1])
        self.head = nn.Linear(nin, widths[-1] * sizes[-1] * sizes[-1])
        layers: list[nn.Module] = []
        channels = [*reversed(widths), nout]
        for i, (stride, size_in, size_out) in enumerate(
            zip(reversed(strides), reversed(sizes[1:]), reversed(sizes[:-1]), strict=True)
        ):
            missing = size_out - ((size_in - 1) * stride - 2 * padding + kernel)
            layers.append(TransposedConv2d(channels[i], channels[i + 1], kernel, stride, padding, missing))
            layers.append(nn.LeakyReLU(slope, inplace=True))
        self.convolutions = nn.Sequential(*layers[:-1])
        if output_bias is not None:
            nn.init.constant_(self.convolutions[-1].bias, output_bias)  # pyright: ignore[reportArgumentType]

    def forward(self, z: Float[Tensor, "batch nin"]) -> Float[Tensor, "batch nout height width"]:
        """Return the network's `nout` outputs for each pixel."""
        return self.convolutions(self.head(z).unflatten(1, self.shape).permute(0, 3, 1, 2))

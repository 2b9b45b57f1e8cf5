"""A convolutional discriminator that returns logits, a hidden feature map, and the output layer's input."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from vae_lab.models.conv import check_stack, conv_sizes


class Judgement(NamedTuple):
    """The outputs of a discriminator or classifier for a batch of images.

    Attributes:
        logits: `nout` logits for each image, or for each patch: [B, nout * patches].
        features: the feature map of a hidden convolution.
        embedding: the input of the output layer, averaged over positions if logits are per patch.
    """

    logits: Float[Tensor, "batch nlogits"]
    features: Float[Tensor, "batch nfeatures height width"]
    embedding: Float[Tensor, "batch nembedding"]

    def split(self, size: int) -> list["Judgement"]:
        """Return a list of the outputs for `size` images each."""
        return [Judgement(*parts) for parts in zip(*(tensor.split(size) for tensor in self), strict=True)]


class ConvDiscriminator(nn.Module):
    """Strided convolutions with leaky ReLUs and no normalisation: [B, nin, k, k] -> `Judgement`.

    Args:
        nin: image channels.
        image_size: height and width of the image.
        nout: logits for each image or patch.
        widths: channels after each convolution.
        strides: stride of each convolution.
        kernel: kernel size.
        padding: zero padding on each side.
        slope: negative slope of the leaky ReLU.
        layer: number of the convolution, from 1, whose output is returned as `features`.
        patches: whether logits are per position of the last feature map (Isola et al. 2017,
            https://arxiv.org/abs/1611.07004) or per image.
        spectral: whether layers have spectral normalization (Miyato et al. 2018, https://arxiv.org/abs/1802.05957).
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
        layer: int,
        patches: bool,
        spectral: bool,
    ) -> None:
        super().__init__()
        check_stack(widths, strides, kernel)
        if not 1 <= layer <= len(widths):
            raise ValueError(f"layer={layer} of a discriminator must be from 1 to {len(widths)}, its convolutions.")
        size = conv_sizes(image_size, kernel, padding, strides)[-1]
        norm = spectral_norm if spectral else nn.Identity()
        self.layer = layer
        self.patches = patches
        self.blocks = nn.ModuleList(
            nn.Sequential(norm(nn.Conv2d(before, after, kernel, stride, padding)), nn.LeakyReLU(slope))
            for (before, after), stride in zip(pairwise([nin, *widths]), strides, strict=True)
        )
        head = nn.Conv2d(widths[-1], nout, 1) if patches else nn.Linear(widths[-1] * size**2, nout)
        self.head = norm(head)

    def forward(self, image: Float[Tensor, "batch nin height width"]) -> Judgement:
        """Return the logits, the hidden feature map and the embedding of images with pixels in [0, 1]."""
        x = 2 * image - 1
        features = x
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            features = x if number == self.layer else features
        if self.patches:
            return Judgement(self.head(x).flatten(1).float(), features.float(), x.float().mean((2, 3)))
        embedding = x.permute(0, 2, 3, 1).flatten(1)  # the memory format is channels-last: flattening makes no copy
        return Judgement(self.head(embedding).float(), features.float(), embedding.float())

"""`FeaturePyramid`: feature maps of a pretrained network at four scales."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vae_lab.errors import require_choice
from vae_lab.features.weights import NETWORKS, read_weights, require_available
from vae_lab.system.printing import PrintsArguments

Images = Float[Tensor, "batch channels height width"]
Maps = list[Float[Tensor, "batch _ _ _"]]

STRIDES = (4, 8, 16, 32)
SMALLEST = 128
"""Side in pixels to which smaller images are enlarged; at this side, the smallest maps are 4x4."""


class FeaturePyramid(PrintsArguments, nn.Module):
    """Feature maps of EfficientNet-Lite at strides of 4, 8, 16 and 32 pixels; its weights are frozen.

    Gradients flow through the network to the images. The network stays in evaluation mode and is no submodule, so that
    it has no parameters to train and is not stored in checkpoints. Batch normalisation is folded into the convolutions,
    which makes a forward and backward pass about 1.5 times as fast.

    Args:
        network: "lite0" or "lite2".
        setting: the setting that asks for the network, for the error if it is not installed.
        smallest: side in pixels to which smaller images are enlarged.
        mode: interpolation for the enlargement, "bicubic" or "bilinear".

    Attributes:
        widths: number of features of each of the four maps.

    Raises:
        ValueError: if the network is unknown, or its packages are not installed.
        DataError: if the file of its weights is damaged.
    """

    def __init__(self, network: str, setting: str, *, smallest: int = SMALLEST, mode: str = "bicubic") -> None:
        super().__init__()
        require_choice(setting, network, NETWORKS)
        require_available(network, setting)
        self.smallest = smallest
        self.mode = mode
        self.widths, body = load_network(network)
        self.body = [body]  # a list keeps it out of parameters and checkpoints

    def forward(self, images: Images) -> Maps:
        """Return the four feature maps of images with pixels in [0, 1]; a grey channel is repeated three times.

        The features are computed in float32 even under autocast: bfloat16 is slower on processors without it, and not
        faster on those that have it, because of the depthwise convolutions.
        """
        body = self.body[0].to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            return body(scaled(enlarged(images.float(), self.smallest, self.mode)))


def enlarged(images: Images, smallest: int, mode: str) -> Float[Tensor, "batch channels rows columns"]:
    """Return the images with a shorter side of at least `smallest` pixels."""
    side = min(images.shape[2:])
    if side >= smallest:
        return images
    size = [round(length * smallest / side) for length in images.shape[2:]]
    return F.interpolate(images, size, mode=mode, align_corners=False)


def scaled(images: Images) -> Float[Tensor, "batch 3 height width"]:
    """Return images in the range that EfficientNet-Lite was trained on, (x - 127) / 128 for x from 0 to 255.

    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    pixels = (255 * images - 127) / 128
    return pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def load_network(name: str) -> tuple[list[int], nn.Module]:
    """Return the widths of the four feature maps, and the frozen network that computes them."""
    import timm

    body: Any = timm.create_model(NETWORKS[name].architecture, features_only=True, out_indices=(1, 2, 3, 4))
    keys = list(body.state_dict())  # the layers that classify follow these
    body.load_state_dict(dict(zip(keys, read_weights(name), strict=False)))
    body.eval()
    fold_normalisation(body)
    widths: list[int] = body.feature_info.channels()
    return widths, body.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)


def fold_normalisation(module: nn.Module) -> None:
    """Fold each batch normalisation that follows a convolution into its weights; its activation remains."""
    children = list(module.named_children())
    for (_, layer), (name, follower) in pairwise(children):
        if isinstance(layer, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
            assert follower.running_mean is not None
            assert follower.running_var is not None
            statistics = (follower.running_mean, follower.running_var, follower.eps, follower.weight, follower.bias)
            layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics)
            setattr(module, name, getattr(follower, "act", nn.Identity()))
    for _, child in children:
        fold_normalisation(child)


def pooled(maps: Float[Tensor, "batch nfeatures rows columns"]) -> Float[Tensor, "batch nfeatures"]:
    """Return feature vectors: the means of a feature map over its places."""
    return maps.mean((2, 3))

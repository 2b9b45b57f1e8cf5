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
STAGES = [1, 2, 3, 4]
"""Numbers of the stages, from 0, at whose ends these strides are reached."""
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
        with torch.autocast(images.device.type, enabled=False):
            pixels = scaled(self.enlarged(images.float()))
            return self.network_on(images.device).forward_intermediates(
                pixels, STAGES, stop_early=True, intermediates_only=True
            )

    def embed(self, images: Images) -> Float[Tensor, "batch nfeatures"]:
        """Return one feature vector for each image: the means of the 1,280 features of the last convolution."""
        with torch.autocast(images.device.type, enabled=False):
            return self.network_on(images.device).forward_features(scaled(self.enlarged(images.float()))).mean((2, 3))

    def network_on(self, device: torch.device) -> Any:  # noqa: ANN401 (timm's networks have no common type)
        """Return the network, on a device."""
        return self.body[0].to(device)

    def enlarged(self, images: Images) -> Float[Tensor, "batch channels rows columns"]:
        """Return the images with a shorter side of at least `smallest` pixels."""
        side = min(images.shape[2:])
        if side >= self.smallest:
            return images
        size = [round(length * self.smallest / side) for length in images.shape[2:]]
        return F.interpolate(images, size, mode=self.mode, align_corners=False)


def scaled(images: Images) -> Float[Tensor, "batch 3 height width"]:
    """Return images in the range that EfficientNet-Lite was trained on, (x - 127) / 128 for x from 0 to 255.

    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """
    pixels = (255 * images - 127) / 128
    return pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def load_network(name: str) -> tuple[list[int], Any]:
    """Return the widths of the four feature maps, and the frozen network that computes them."""
    import timm

    with torch.device("cpu"):  # also where a model is built without memory, on the device "meta"
        body: Any = timm.create_model(NETWORKS[name].architecture)
    body.load_state_dict(dict(zip(body.state_dict(), read_weights(name), strict=True)))
    body.eval()
    fold_normalisation(body)
    widths = [body.feature_info[stage]["num_chs"] for stage in STAGES]
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


def pyramid_distance(ours: Maps, theirs: Maps) -> Float[Tensor, " batch"]:
    """Return the squared distance of normalised features, averaged over places and summed over the maps.

    Zhang et al. 2018, equation 1, https://arxiv.org/abs/1801.03924, with all channel weights 1.
    """
    pairs = [(F.normalize(one, dim=1), F.normalize(other, dim=1)) for one, other in zip(ours, theirs, strict=True)]
    return torch.stack([(one - other).square().sum(1).mean((1, 2)) for one, other in pairs]).sum(0)

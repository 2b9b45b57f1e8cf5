"""`FeatureVectors`: the features of whole images that a pretrained network classifies them by."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import require_choice
from vae_lab.features.pyramid import SMALLEST, Images, enlarged, fold_normalisation, scaled
from vae_lab.features.weights import NETWORKS, read_weights, require_available

NFEATURES = 1280
"""Length of the vectors of both networks."""


class FeatureVectors(nn.Module):
    """Feature vectors of EfficientNet-Lite: the last activations before the classes, averaged over places.

    Images below 128 pixels a side are enlarged to it by bicubic interpolation. The weights are frozen, and the network
    is no submodule, so that it has no parameters to train and is not stored in checkpoints.

    Args:
        network: "lite0" or "lite2".
        setting: the setting that asks for the network, for the error if it is not installed.

    Raises:
        ValueError: if the network is unknown, or its packages are not installed.
        DataError: if the file of its weights is damaged.
    """

    def __init__(self, network: str, setting: str) -> None:
        super().__init__()
        require_choice(setting, network, NETWORKS)
        require_available(network, setting)
        self.body = [load_body(network)]  # a list keeps it out of parameters and checkpoints

    def forward(self, images: Images) -> Float[Tensor, "batch nfeatures"]:
        """Return the feature vectors of images with pixels in [0, 1], in float32; a grey channel is repeated."""
        body = self.body[0].to(images.device)
        with torch.autocast(images.device.type, enabled=False):
            return body(scaled(enlarged(images.float(), SMALLEST, "bicubic")))


def load_body(name: str) -> nn.Module:
    """Return the frozen network without its layer of classes, which maps images to feature vectors."""
    import timm

    body: Any = timm.create_model(NETWORKS[name].architecture, num_classes=0)
    keys = list(body.state_dict())  # the layer of classes follows these
    body.load_state_dict(dict(zip(keys, read_weights(name), strict=False)))
    body.eval()
    fold_normalisation(body)
    return body.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)

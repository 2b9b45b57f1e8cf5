"""The Inception network of published FIDs."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.evaluation.metrics.features import Extractor, Pixels


class Inception(Extractor):
    """torchmetrics' Inception: 2,048 features of images enlarged to 299x299.

    Args:
        weights: the file that torch-fidelity publishes.
    """

    key = "inception"
    nfeatures = 2048

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from torchmetrics.image.fid import NoTrainInceptionV3  # needs torch-fidelity

        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the last pooled layer; grey images are shown in three equal channels."""
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return self.network(pixels.expand(-1, 3, -1, -1) if images.shape[1] == 1 else pixels)

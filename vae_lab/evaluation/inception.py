"""The Inception network that published FIDs are measured with, where its weights are on the disk."""

import importlib.util
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.errors import DataError
from vae_lab.evaluation.features import Extractor, Pixels

FILE = "weights-inception-2015-12-05-6726825d.pth"


def inception_weights() -> Path | None:
    """Return the weights' file if it lies in torch's cache and torch-fidelity, which reads it, is installed."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    return path if path.is_file() and importlib.util.find_spec("torch_fidelity") else None


class Inception(Extractor):
    """torchmetrics' Inception, 2,048 features of images enlarged to 299x299.

    Raises:
        DataError: if the weights or torch-fidelity are missing.
    """

    key = "inception"
    nfeatures = 2048

    def __init__(self) -> None:
        super().__init__()
        weights = inception_weights()
        if weights is None:
            raise DataError(
                f"features=inception needs `pip install torch-fidelity` and {FILE} in"
                f" {Path(torch.hub.get_dir()) / 'checkpoints'}; choose features=auto, which needs neither."
            )
        from torchmetrics.image.fid import NoTrainInceptionV3

        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def forward(self, images: Pixels) -> Float[Tensor, "batch nfeatures"]:
        """Return the last pooled layer; grey images are shown in three equal channels."""
        pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return self.network(pixels.expand(-1, 3, -1, -1) if images.shape[1] == 1 else pixels)

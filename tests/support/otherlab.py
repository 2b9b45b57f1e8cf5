"""A package of somebody's own, as far as the tests of trust need one; it imports what most packages do."""

import functools
import os  # noqa: F401
import subprocess  # noqa: F401
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning import Callback
from torch import Tensor, nn

from vae_lab.data.datamodule import ImageData
from vae_lab.data.synthetic import SyntheticBlobs
from vae_lab.detection.scores.anomaly import Score
from vae_lab.models.mlp import MLPEncoder  # noqa: F401
from vae_lab.probability.latent_model import LatentModel

twice: Any = functools.partial(max, 2)
settings = {"a": 1}


class Encoder(nn.Module):
    """A network for images, with a layer of the caller's choice in it."""

    def __init__(self, nin: int, image_size: int, nout: int, *, layer: Callable[[], nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(nin * image_size**2, 8), layer(), nn.Linear(8, nout))

    @classmethod
    def plain(cls, nin: int, image_size: int, nout: int) -> "Encoder":
        return cls(nin, image_size, nout, layer=nn.Identity)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)


def make_encoder(nin: int, image_size: int, nout: int) -> Encoder:
    return Encoder(nin, image_size, nout)


class Turned(SyntheticBlobs):
    """The images of another set, the other way round."""

    def __init__(self, inner: ImageData, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = inner


class Brightness(Score):
    """How bright an image is."""

    def forward(self, model: LatentModel, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3)).to(torch.float32)


class Keeper(Callback):
    """A callback that keeps a number of NumPy."""

    def state_dict(self) -> dict[str, Any]:
        return {"best": np.float64(1)}

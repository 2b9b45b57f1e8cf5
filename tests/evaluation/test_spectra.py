"""Power spectra against noise, waves and blur whose spectra are known, and on real pictures."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor

from vae_lab.evaluation.metrics.power_spectrum import BANDS, _power, band_ratios, radial_power, spectrum_figure

SIZES = [(8, 8), (9, 9), (28, 28), (64, 64), (24, 40)]


@pytest.fixture(params=["mnist", "monet"])
def pictures(request: pytest.FixtureRequest, shared: Path) -> Tensor:
    if request.param == "mnist":
        return MNIST(str(shared), train=False).data[:200, None] / 255
    files = sorted((shared / "monet").glob("*.jpg"))[:6]
    return torch.stack([pil_to_tensor(Image.open(file)) for file in files]) / 255


def noise(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def wave(frequency: float, angle: float, size: int = 32) -> Tensor:
    x, y = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy")
    phase = 2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle))
    return 0.5 + 0.5 * phase.sin().expand(1, 1, size, size)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_white_noise_is_flat_at_its_variance(size: tuple[int, int]) -> None:
    frequencies, power = radial_power(0.3 * noise(4000 * 64 // math.prod(size) + 300, 2, *size))
    side = min(size)
    torch.testing.assert_close(frequencies, torch.arange(1, side // 2 + 1, dtype=torch.float64) / side)
    torch.testing.assert_close(power[1:], torch.full_like(power[1:], 0.09), rtol=0.05, atol=0)
    assert 0.85 < power[0] / 0.09 < 1  # the mean that is taken off is part of it


@pytest.mark.parametrize("angle", [0, 0.4, math.pi / 2])
@pytest.mark.parametrize(("frequency", "band"), [(0.07, "low"), (0.19, "middle"), (0.36, "high")])
def test_a_wave_lands_in_its_band_and_at_its_frequency(frequency: float, band: str, angle: float) -> None:
    flat, image = noise(50, 1, 32, 32), wave(frequency, angle)
    ratios = band_ratios(image, flat)
    assert all(ratios[band] > 10 * ratios[other] for other in BANDS if other != band)
    frequencies, power = radial_power(image)
    assert frequencies[power.argmax()].item() == pytest.approx(frequency, abs=1 / 32)


def test_power_adds_up_to_the_variance() -> None:
    """A wave of amplitude 1/2 has variance 1/8."""
    _, power = _power(wave(0.25, 0, 64))
    assert power.mean().item() == pytest.approx(1 / 8, rel=1e-3)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_no_band_is_empty(size: tuple[int, int]) -> None:
    images = noise(20, 1, *size)
    assert band_ratios(images, images) == dict.fromkeys(BANDS, 1.0)
    assert band_ratios(2 * images, images) == dict.fromkeys(BANDS, pytest.approx(4))


def test_edges_of_bands_are_exact() -> None:
    """k/side on an edge belongs to the band below, also where 1/side has no finite expansion."""
    for side in range(8, 200, 8):
        radius, _ = _power(torch.zeros(1, 1, side, side))
        assert radius[0, side // 8] == radius[side // 8, 0] == 1 / 8
        assert radius[0, side // 4] == radius[-side // 4, 0] == 1 / 4


def test_blur_lowers_every_band_the_more_the_wider(pictures: Tensor) -> None:
    ratios = [band_ratios(pictures, pictures)]
    assert ratios[0] == dict.fromkeys(BANDS, 1.0)
    ratios += [band_ratios(gaussian_blur(pictures, [21, 21], [sigma] * 2), pictures) for sigma in (0.4, 0.7, 1, 2, 3)]
    for sharper, blurrier in pairwise(ratios):
        assert all(blurrier[name] < 0.999 * sharper[name] for name in BANDS)
    for result in ratios[1:]:
        assert result["low"] > result["middle"] > result["high"]


def test_a_blur_multiplies_the_power_by_the_square_of_its_transfer_function() -> None:
    """A Gaussian's is exp(-2 pi^2 sigma^2 f^2)."""
    images = noise(300, 1, 64, 64)
    frequencies, power = radial_power(gaussian_blur(images, [15, 15], [1.0, 1.0])[..., 8:-8, 8:-8])
    inside = frequencies < 0.3
    expected = (-4 * math.pi**2 * frequencies[inside].square()).exp()
    torch.testing.assert_close(power[inside] / expected, torch.ones_like(expected), atol=0.2, rtol=0)


def test_noise_raises_the_top(pictures: Tensor) -> None:
    result = band_ratios(pictures + 0.1 * noise(*pictures.shape), pictures)
    assert result["high"] > result["middle"] > result["low"] > 0.99
    assert result["high"] > 1.2


def test_brightness_counts_for_nothing() -> None:
    images = noise(20, 1, 28, 28)
    assert band_ratios(images + 3, images) == dict.fromkeys(BANDS, pytest.approx(1, abs=1e-5))


def test_edges_that_do_not_meet_leak_little() -> None:
    """A ramp is all low frequency; without a window its jump at the border has power everywhere."""
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    frequencies, power = radial_power(ramp)
    assert power[frequencies > 0.25].max() < 1e-6 * power.max()


@pytest.mark.parametrize(
    ("images", "reference", "message"),
    [
        (torch.rand(2, 1, 7, 9), torch.rand(2, 1, 7, 9), "at least 8 pixels a side, not"),
        (torch.rand(0, 1, 9, 9), torch.rand(2, 1, 9, 9), "at least 8 pixels a side, not"),
        (torch.rand(2, 1, 9, 9), torch.rand(2, 3, 9, 9), "must have equal shapes"),
        (torch.rand(2, 1, 9, 9), torch.full((2, 1, 9, 9), 0.3), "no power in the low band"),
    ],
)
def test_what_cannot_be_compared_is_refused(images: Tensor, reference: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        band_ratios(images, reference)


def test_the_figure_has_a_line_for_each_set(tmp_path: Path) -> None:
    figure = spectrum_figure({"noise": noise(3, 1, 28, 28), "finer": noise(3, 3, 64, 64)})
    figure.savefig(tmp_path / "spectra.png")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["noise, 3 images", "finer, 3 images"]  # pyright: ignore[reportOptionalMemberAccess]
    assert axes.get_xscale() == axes.get_yscale() == "log"

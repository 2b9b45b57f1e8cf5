"""Quality of reconstructions against the formulas written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from vae_lab.evaluation.metrics.reconstruction import perceptual_distances, reconstruction_metrics
from vae_lab.features.pyramid import FeaturePyramid

SIZES = [(1, 8, 3), (3, 10, 4), (1, 28, 5), (3, 64, 5)]


def pair(channels: int, size: int, n: int = 6) -> tuple[Tensor, Tensor]:
    """Decoded images that get worse one by one, and the images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, channels, size, size, generator=generator)
    noise = torch.randn(images.shape, generator=generator) * torch.linspace(0.05, 0.3, n).view(-1, 1, 1, 1)
    return (images + noise).clamp(0, 1), images


def measured(decoded: Tensor, images: Tensor, batch: int = 100) -> dict[str, float]:
    metrics = reconstruction_metrics(images.shape[-1])
    for ours, theirs in zip(decoded.split(batch), images.split(batch), strict=True):
        metrics.update(ours, theirs)
    return {name: value.item() for name, value in metrics.compute().items()}


def ssim(a: Tensor, b: Tensor, radius: int) -> float:
    """Wang et al. 2004, written out: K1 = 0.01, K2 = 0.03, L = 1, edges reflected."""
    offsets = torch.arange(-radius, radius + 1)
    kernel = (-0.5 * (offsets / (0.3 * radius)) ** 2).exp()
    kernel = torch.outer(kernel, kernel)[None, None] / kernel.sum() ** 2

    def mean(x: Tensor) -> Tensor:
        return conv2d(pad(x.flatten(0, 1)[:, None], [radius] * 4, mode="reflect"), kernel)

    covariance = mean(a * b) - mean(a) * mean(b)
    variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    luminance = (2 * mean(a) * mean(b) + 0.01**2) / (mean(a) ** 2 + mean(b) ** 2 + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean().item()


@pytest.mark.parametrize(("channels", "size", "radius"), SIZES)
def test_metrics_are_their_formulas(channels: int, size: int, radius: int) -> None:
    decoded, images = pair(channels, size)
    errors = (decoded - images).square().mean((1, 2, 3))
    result = measured(decoded, images)
    assert result["mse"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert result["psnr"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-5)
    assert result["psnr"] > -10 * math.log10(errors.mean()) + 0.5
    assert result["ssim"] == pytest.approx(ssim(decoded, images, radius), abs=1e-4)


@pytest.mark.parametrize(("channels", "size", "radius"), SIZES)
def test_a_perfect_copy(channels: int, size: int, radius: int) -> None:
    _, images = pair(channels, size)
    result = measured(images.clone(), images)
    assert (result["mse"], result["psnr"]) == (0, math.inf)
    assert result["ssim"] == pytest.approx(1, abs=1e-5)


def test_uneven_batches_and_layouts_count_the_same() -> None:
    decoded, images = pair(3, 28)
    whole = measured(decoded, images)
    assert measured(decoded, images, batch=4) == pytest.approx(whole, rel=1e-5)
    last = torch.channels_last
    assert measured(decoded.to(memory_format=last), images.to(memory_format=last)) == pytest.approx(whole, rel=1e-5)


def test_more_noise_is_worse() -> None:
    decoded, images = pair(1, 28)
    first, last = (measured(decoded[rows], images[rows]) for rows in (slice(0, 1), slice(-1, None)))
    assert first["mse"] < last["mse"]
    assert first["psnr"] > last["psnr"]
    assert first["ssim"] > last["ssim"]


@pytest.mark.parametrize(("size", "message"), [(2, "at least 3, not 2: ssim"), (0, "whole number")])
def test_images_without_a_window_are_refused(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reconstruction_metrics(size)


def test_the_perceptual_distance_is_the_squared_distance_of_unit_features() -> None:
    generator = torch.Generator().manual_seed(0)
    images, decoded = torch.rand(2, 3, 3, 64, 64, generator=generator)
    pyramid = FeaturePyramid("lite0", "x")
    expected, cpu = [], torch.device("cpu")
    for a, b in zip(pyramid(images), pyramid(decoded), strict=True):
        cosine = torch.cosine_similarity(a, b, dim=1)
        expected.append((2 - 2 * cosine).mean((1, 2)))  # |u - v|^2 of unit vectors
    found = perceptual_distances(pyramid, images, decoded, cpu)
    torch.testing.assert_close(found, torch.stack(expected).sum(0), atol=1e-4, rtol=1e-3)
    assert perceptual_distances(pyramid, images, images, cpu).max() == 0

"""Loss conventions in nats against the formulas of other libraries, written out by hand."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from loss_units import PYTHAE, SEED, SquaredErrorLoss, normalizer, pixel_mean
from torch import Tensor
from torch.nn.functional import mse_loss

from vae_lab.probability.distributions import DiagonalNormal, StandardNormal, kl
from vae_lab.probability.likelihoods import Gaussian


def seed_loss(reconstruction: Tensor, image: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """The 2018 project: summed squared error plus KL."""
    return (reconstruction - image).pow(2).sum() - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()


def pythae_loss(reconstruction: Tensor, image: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """pythae 0.1.2, VAE.loss_function with reconstruction_loss="mse"."""
    squares = 0.5 * mse_loss(reconstruction.flatten(1), image.flatten(1), reduction="none").sum(-1)
    return (squares - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(-1)).mean()


def pytorch_vae_loss(
    reconstruction: Tensor, image: Tensor, mean: Tensor, log_variance: Tensor, kld_weight: float
) -> Tensor:
    """PyTorch-VAE, VanillaVAE.loss_function with M_N = kld_weight."""
    divergence = (-0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)).mean()
    return mse_loss(reconstruction, image) + kld_weight * divergence


CASES: dict[str, tuple[Callable[..., Tensor], SquaredErrorLoss, tuple[int, ...]]] = {
    "seed": (seed_loss, SEED, (1, 28, 28)),
    "pythae": (pythae_loss, PYTHAE, (1, 28, 28)),
    "training": (partial(pytorch_vae_loss, kld_weight=0.00025), pixel_mean(0.00025, 12_288), (3, 64, 64)),
    "validation": (partial(pytorch_vae_loss, kld_weight=1.0), pixel_mean(1.0, 12_288), (3, 64, 64)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("variance", [0.5, 1.0, 0.01])
def test_a_loss_is_distortion_plus_beta_times_rate(name: str, variance: float) -> None:
    formula, entry, shape = CASES[name]
    generator = torch.Generator().manual_seed(0)
    output, image = (torch.randn(1, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    image = image.sigmoid()
    mean, log_variance = torch.randn(2, 1, 16, generator=generator, dtype=torch.float64).unbind()
    theirs = formula(output.sigmoid(), image, mean, log_variance).item()
    distortion = -Gaussian(variance)(output).log_prob(image).item()
    rate = kl(DiagonalNormal(mean, log_variance / 2), StandardNormal(torch.zeros(16)), mean).item()
    nats = distortion + entry.beta(variance) * rate
    assert entry.nats(theirs, image.numel(), variance) == pytest.approx(nats, rel=1e-9)
    assert entry.loss(nats, image.numel(), variance) == pytest.approx(theirs, rel=1e-9)


def test_the_numbers_that_people_ask_for() -> None:
    assert normalizer(784, 0.5) == pytest.approx(448.734, abs=5e-4)
    assert SEED.nats(0.0, 784, 0.5) == pytest.approx(448.734, abs=5e-4)
    assert (SEED.beta(0.5), SEED.variance(1.0)) == (1.0, 0.5)
    assert (PYTHAE.beta(1.0), PYTHAE.variance(1.0), PYTHAE.beta(0.5)) == (1.0, 1.0, 2.0)
    training, validation = (pixel_mean(weight, 3 * 64 * 64) for weight in (0.00025, 1.0))
    assert training.beta(0.5) == pytest.approx(3.072)
    assert validation.beta(0.5) == pytest.approx(12_288)


@pytest.mark.parametrize("entry", [SEED, PYTHAE, pixel_mean(0.00025, 784), SquaredErrorLoss(3.0, 0.2)])
def test_variance_and_beta_are_one_number(entry: SquaredErrorLoss) -> None:
    for beta in (0.1, 1.0, 7.0):
        assert entry.beta(entry.variance(beta)) == pytest.approx(beta)
    assert normalizer(1, 1 / (2 * math.pi)) == pytest.approx(0)

"""Truncation: what a temperature does to each density of latents, and where it is refused."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Laplace

from vae_lab.models.mlp import MLPEncoder
from vae_lab.models.skip_excitation import SkipExcitationDecoder
from vae_lab.models.vae import VAE
from vae_lab.probability.distributions import DiagonalNormal, MixtureOfDiagonalNormals
from vae_lab.probability.distributions import StandardNormal as Standard
from vae_lab.probability.likelihoods import Bernoulli
from vae_lab.probability.priors import StandardNormal, gaussian_mixture
from vae_lab.sampling.flow import Flow, Velocity
from vae_lab.sampling.images import generate_images
from vae_lab.sampling.subspace import SubspaceMixture
from vae_lab.sampling.temperature import tempered

MEANS = torch.tensor([[9.0, 9.0, 9.0], [-9.0, -9.0, -9.0]])


def mixture() -> Distribution:
    return gaussian_mixture(torch.ones(2) / 2, MEANS, torch.eye(3).expand(2, 3, 3))


def subspace() -> Distribution:
    inner = gaussian_mixture(torch.ones(2) / 2, MEANS[:, :2].double(), torch.eye(2).double().expand(2, 2, 2))
    one = torch.tensor(1.0).double()
    return SubspaceMixture(torch.zeros(3).double(), torch.eye(3)[:, :2].double(), inner, one)


DENSITIES: dict[str, Callable[[], Distribution]] = {
    "prior": lambda: Standard(torch.zeros(3)),
    "normal": lambda: DiagonalNormal(MEANS[0], torch.zeros(3)),
    "vamp": lambda: MixtureOfDiagonalNormals(DiagonalNormal(MEANS, torch.zeros(2, 3))),
    "gmm": mixture,
    "subspace": subspace,
    "flow": lambda: Flow(MEANS[0], torch.ones(3), Velocity(3, 1)),
}


@pytest.mark.parametrize("make", DENSITIES.values(), ids=DENSITIES.keys())
def test_each_draw_is_half_as_far_from_its_mode(make: Callable[[], Distribution]) -> None:
    """The same noise gives the same component; modes are at multiples of 9."""
    density = make()
    torch.manual_seed(0)
    usual = density.sample((200,))
    torch.manual_seed(0)
    calm = tempered(density, 0.5).sample((200,))
    mode = (usual / 9).round() * 9
    torch.testing.assert_close(calm - mode, 0.5 * (usual - mode), atol=2e-2, rtol=0)
    assert tempered(density, 1.0) is density


def test_a_density_without_a_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="Laplace has none"):
        tempered(Laplace(0.0, 1.0), 0.5)


def on_a_sphere() -> VAE:
    parts: dict[str, Callable[..., nn.Module]] = {
        "encoder": partial(MLPEncoder, width=8, nblocks=1),
        "decoder": partial(SkipExcitationDecoder, widths=[8]),
    }
    return VAE(**parts, likelihood=Bernoulli(), prior=StandardNormal, nlatent=3, channels=1, image_size=16)  # pyright: ignore[reportArgumentType]


def test_a_decoder_that_ignores_the_length_of_latents_has_no_temperature_of_its_prior() -> None:
    model = on_a_sphere()
    with pytest.raises(ValueError, match="the decoder uses only their direction; choose sampler=flow or gmm"):
        generate_images(model, 2, 0, temperature=0.5)
    usual, calm = (generate_images(model, 2, 0, sampler=mixture(), temperature=t) for t in (1.0, 0.5))
    assert not torch.allclose(usual, calm)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        generate_images(on_a_sphere(), 2, 0, temperature=temperature)

"""A density for more latents than images: what it is, when it is chosen, and what a run makes of it."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from invoking import invoke
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from torch.distributions import MixtureSameFamily, MultivariateNormal

from vae_lab.generate import main
from vae_lab.probability.priors import gaussian_mixture
from vae_lab.runs.load import load_model
from vae_lab.sampling.images import generate_images
from vae_lab.sampling.latent_samplers import fitted_density, fitted_mixture, fitted_subspace
from vae_lab.sampling.store import load_sampler, sampler_path
from vae_lab.sampling.subspace import SubspaceMixture
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def subspace(n: int, k: int, ncomponents: int) -> SubspaceMixture:
    """One with covariances and directions at random."""
    roots = 0.6 * double(ncomponents, k, k, seed=1)
    inner = gaussian_mixture(
        torch.arange(1.0, ncomponents + 1, dtype=torch.float64) / sum(range(ncomponents + 1)),
        double(ncomponents, k, seed=2),
        roots @ roots.mT + 0.1 * torch.eye(k, dtype=torch.float64),
    )
    directions = torch.linalg.qr(double(n, k, seed=3)).Q
    return SubspaceMixture(double(n, seed=4), directions, inner, torch.tensor(0.3, dtype=torch.float64))


def test_a_mixture_in_a_subspace_integrates_to_1() -> None:
    density = subspace(2, 1, 3)
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = density.mean + torch.cartesian_prod(line, line)
    assert (density.log_prob(grid).exp().sum() * 0.04**2).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("n", "k"), [(3, 1), (7, 3), (40, 39)])
def test_with_one_component_it_is_the_normal_of_probabilistic_principal_components(n: int, k: int) -> None:
    density = subspace(n, k, 1)
    inner = density.inner
    assert isinstance(inner, MixtureSameFamily)
    inside = inner.component_distribution.covariance_matrix[0]  # pyright: ignore[reportAttributeAccessIssue]
    turn, eye = density.directions, torch.eye(n, dtype=torch.float64)
    whole = turn @ inside @ turn.T + 0.3 * (eye - turn @ turn.T)
    expected = MultivariateNormal(density.mean, whole)
    z = expected.sample((2, 5))
    torch.testing.assert_close(density.log_prob(z), expected.log_prob(z))
    assert density.log_prob(z.float()).shape == (2, 5)


def test_what_it_draws_has_its_mean_and_covariance() -> None:
    density = subspace(5, 2, 3)
    torch.manual_seed(0)
    z = density.sample((50_000,))
    assert density.sample().shape == (5,)
    torch.testing.assert_close(z.mean(0), density.mean, atol=0.03, rtol=0)
    inside, turn = density.inner.variance, density.directions
    along = ((z - density.location) @ turn).var(0)
    torch.testing.assert_close(along, inside, rtol=0.03, atol=0)
    across = (z - density.location) - (z - density.location) @ turn @ turn.T
    assert across.square().sum(1).mean().item() == pytest.approx(3 * 0.3, rel=0.03)


def few(n: int = 400, nlatent: int = 600) -> Tensor:
    """Latents that vary in 8 directions, in two lumps, and a little in all others."""
    directions = torch.linalg.qr(double(nlatent, 8)).Q
    lumps = 6 * (torch.arange(n) % 7 < 3).double()[:, None] * torch.eye(8, dtype=torch.float64)[0]
    return (2 * double(n, 8, seed=1) + lumps) @ directions.T + 0.2 * double(n, nlatent, seed=2) + 1


def test_a_fit_finds_the_directions_and_gives_unseen_latents_density() -> None:
    latents = few(500)
    density = fitted_subspace(latents[:400].float(), 10, seed=0)
    assert density.directions.shape == (600, 8)
    assert density.rest.item() == pytest.approx(0.2**2, rel=0.05)
    torch.testing.assert_close(density.directions.T @ density.directions, torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(density.mean, latents[:400].mean(0), atol=1e-5, rtol=0)
    plain = MultivariateNormal(latents[:400].mean(0), torch.eye(600, dtype=torch.float64) * latents[:400].var())
    unseen, seen = (density.log_prob(some).mean().item() for some in (latents[400:], latents[:400]))
    assert unseen > plain.log_prob(latents[400:]).mean().item() + 200
    assert seen - unseen < 20
    again = fitted_subspace(latents[:400].float(), 10, seed=0)
    torch.testing.assert_close(again.log_prob(latents), density.log_prob(latents), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("n", "nlatent", "full"), [(1000, 20, True), (200, 20, False), (60, 3, True), (20, 3, False), (4, 3, True)]
)
def test_full_covariances_are_fitted_where_they_can_be_known(n: int, nlatent: int, full: bool) -> None:
    density = fitted_density(double(n, nlatent), 10, seed=0)
    assert isinstance(density, SubspaceMixture) != full
    assert density.log_prob(double(3, nlatent, seed=1)).isfinite().all()
    if full:
        expected = fitted_mixture(double(n, nlatent), min(n, 10), seed=0)
        torch.testing.assert_close(density.log_prob(double(3, nlatent)), expected.log_prob(double(3, nlatent)))


def test_latents_that_never_vary_still_have_a_density() -> None:
    density = fitted_subspace(torch.zeros(20, 50), 10, seed=0)
    assert density.sample((3,)).abs().max() < 0.1
    assert math.isfinite(density.log_prob(torch.zeros(50)).item())


def test_a_spatial_autoencoder_is_generated_from_by_the_density_of_its_latents(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As experiment=monet256_klae is: more latents than images."""
    settings = ("model=resnet", "model.encoder.widths=[8]", "model.encoder.smallest=8", "model.encoder.spatial=true")
    settings = (*settings, "task=vaegan", "task.adversaries.discriminator.network.widths=[8,8,8]", "data.image_size=16")
    train_run(config(*settings, "task.samples=false", "task.warmup=2", "model.nlatent=256"))
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert invoke(main, "generate", f"run={run}", "sampler=gmm", "n=4", "out=a.png", monkeypatch=monkeypatch) == 0
    said = "".join(capfd.readouterr())
    assert "256 latents are too many for full covariances of 48 images; the mixture has" in said
    model, path = load_model(run), sampler_path(run, "gmm", "best")
    with Image.open("a.png") as picture:
        assert picture.size[0] == picture.size[1]
    written = path.stat().st_mtime_ns
    density = load_sampler(run, model, "gmm")
    assert path.stat().st_mtime_ns == written
    assert isinstance(density, SubspaceMixture)
    assert density.sample((3,)).shape == (3, 256)
    assert generate_images(model, 2, 0, sampler=density).shape == (2, 1, 16, 16)

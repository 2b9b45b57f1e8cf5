"""Flows: the densities they learn, that they don't repeat latents, and what a run makes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from invoking import invoke
from omegaconf import DictConfig
from torch import Tensor

from vae_lab.errors import DataError
from vae_lab.generate import main
from vae_lab.runs.load import load_model, trains_sigma
from vae_lab.sampling import flow
from vae_lab.sampling.flow import Flow, Posteriors, Velocity, fitted_flow
from vae_lab.sampling.images import generate_images
from vae_lab.sampling.store import load_sampler, read_sampler, sampler_path
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]


def ring(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * torch.pi * torch.rand(n, generator=generator)
    return 5 + torch.stack([3 * angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2, generator=generator)


def signs(n: int, seed: int) -> Tensor:
    """Two maps of 2x2, flattened: all values of a map have one sign, and the maps have opposite signs."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (n, 1), generator=generator).float() * 2 - 1
    return sign * torch.tensor([1.0, -1.0]).repeat_interleave(4) + 0.2 * torch.randn(n, 8, generator=generator)


def energy(x: Tensor, y: Tensor) -> float:
    """Energy distance, 2 E|x - y| - E|x - x'| - E|y - y'|."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return (2 * torch.cdist(x, y).mean() - within).item()


def fitted(latents: Tensor, cells: int, nsteps: int) -> Flow:
    return fitted_flow(Posteriors(latents, torch.zeros_like(latents)), cells, 0, nsteps)


def drawn(density: Flow, n: int = 300) -> Tensor:
    torch.manual_seed(0)
    return density.sample((n,)).float()


SHAPES = {"a ring": (ring, 1, 500), "two clusters of maps": (signs, 4, 300)}


CASES = [
    pytest.param(*case, id=name, marks=pytest.mark.slow if "maps" in name else []) for name, case in SHAPES.items()
]


@pytest.mark.parametrize(("truth", "cells", "nsteps"), CASES)
def test_a_flow_learns_what_a_normal_cannot_be(truth: Callable[[int, int], Tensor], cells: int, nsteps: int) -> None:
    """Before the first step it is the normal with the latents' means and variances."""
    latents, unseen = truth(2000, 1), truth(1000, 2)
    start, end = drawn(fitted(latents, cells, 0)), drawn(fitted(latents, cells, nsteps))
    torch.testing.assert_close(start.mean(0), latents.mean(0), atol=0.4, rtol=0)
    torch.testing.assert_close(start.std(0), latents.std(0), atol=0, rtol=0.15)
    assert energy(end, unseen) < 0.2 * energy(start, unseen)


def test_draws_from_wide_posteriors_have_their_spread() -> None:
    density = fitted_flow(Posteriors(torch.zeros(500, 3), torch.full((500, 3), 2.0)), 1, 0, 0)
    torch.testing.assert_close(drawn(density).std(0), torch.full((3,), 2.0), atol=0.4, rtol=0)


@pytest.mark.slow
def test_a_fit_to_few_latents_ends_before_it_repeats_them() -> None:
    """Samples are as far from the nearest fitted latent as unseen latents are."""
    generator = torch.Generator().manual_seed(0)
    latents, unseen = torch.randn(100, 16, generator=generator), torch.randn(500, 16, generator=generator)
    nearest = torch.cdist(drawn(fitted(latents, 1, 1000), 100), latents).amin(1)
    assert nearest.median() > 0.85 * torch.cdist(unseen, latents).amin(1).median()


def test_latents_that_do_not_fill_square_maps_are_refused() -> None:
    for nlatent, cells in ((10, 4), (10, 5)):
        with pytest.raises(ValueError, match=f"{nlatent} latents do not fill square maps of {cells}"):
            Velocity(nlatent, cells)


RUNS = {
    "a vector": (),
    "maps": ("model=resnet", "model.encoder.widths=[8]", "model.encoder.smallest=8", "model.encoder.spatial=true",
             "model.nlatent=128", "data.image_size=16"),
    "no sigma": ("objective=autoencoder",),
}  # fmt: skip


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_a_flow_is_fitted_once_and_generated_from(
    config: Compose, tmp_path: Path, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "FIT", flow.FIT._replace(nsteps=10, check_every=5))
    train_run(config(*settings))
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "generate", f"run={run}", "sampler=flow", "n=4", "out=a.png", monkeypatch=monkeypatch) == 0
    model, path = load_model(run), sampler_path(run, "flow", "best")
    assert path.parent == run / "samplers"
    written = path.stat().st_mtime_ns
    density = load_sampler(run, model, "flow")
    assert path.stat().st_mtime_ns == written
    assert isinstance(density, Flow)
    assert trains_sigma(run, "best") == ("objective=autoencoder" not in settings)
    many, few = generate_images(model, 5, 0, 5, density), generate_images(model, 2, 0, 1, density)
    torch.testing.assert_close(many[:2], few, atol=1e-12, rtol=0)
    calm = generate_images(model, 2, 0, sampler=density, temperature=0.5)
    assert not torch.allclose(calm, few)
    stored = torch.load(path, weights_only=True)
    torch.save(stored | {"cells": torch.tensor(7)}, path)
    with pytest.raises(DataError, match="delete it to fit a new one"):
        read_sampler(path)

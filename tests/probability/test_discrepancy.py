"""The discrepancy of latents from the prior."""

import pytest
import torch

from vae_lab.probability.discrepancy import direction_mmd


def estimate(z: torch.Tensor, nrepeats: int, n: int) -> torch.Tensor:
    """The estimate for several batches of n latents."""
    prior = torch.randn(256, z.shape[1])
    return torch.stack([direction_mmd(z[torch.randperm(len(z))[:n]], prior) for _ in range(nrepeats)])


@pytest.mark.parametrize("n", [2, 16])
def test_latents_of_the_prior_have_none_whatever_their_lengths(n: int) -> None:
    torch.manual_seed(0)
    found = estimate(torch.randn(5000, 64) * torch.rand(5000, 1), 400, n)
    assert abs(found.mean()) < 3 * found.std() / 20 + 0.003


def test_it_grows_as_latents_gather_and_its_gradient_spreads_them() -> None:
    torch.manual_seed(0)
    noise, corner = torch.randn(64, 32), torch.ones(32)
    found = [estimate(noise + shift * corner, 10, 64).mean() for shift in (0.0, 0.5, 1.0, 3.0)]
    assert found == sorted(found)
    assert found[-1] > 0.3
    z = (0.1 * noise + corner).requires_grad_()
    before = direction_mmd(z, torch.randn(256, 32))
    (gradient,) = torch.autograd.grad(before, z)
    after = direction_mmd((z - 10 * gradient / gradient.norm()).detach(), torch.randn(256, 32))
    assert after < before - 0.02

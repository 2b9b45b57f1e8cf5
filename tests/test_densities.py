"""Laws that every likelihood, prior and distribution obeys."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from vae_lab.probability.distributions import (
    DiagonalNormal,
    IsotropicNormal,
    StandardNormal,
    bounded_log_sigma,
    kl,
)
from vae_lab.probability.likelihoods import Gaussian, Likelihood
from vae_lab.probability.priors import Prior
from vae_lab.probability.priors import StandardNormal as StandardNormalPrior

LIKELIHOODS = [Gaussian(0.5), Gaussian(0.01)]
PRIORS = [StandardNormalPrior(3)]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_a_likelihood_is_a_density_over_images(likelihood: Likelihood) -> None:
    output = torch.linspace(-4, 4, 2 * 3 * 4 * 4).view(2, 3, 4, 4).requires_grad_()
    density = likelihood(output)
    assert (density.batch_shape, density.event_shape) == ((2,), (3, 4, 4))
    assert density.mean.shape == (2, 3, 4, 4)
    assert ((density.mean >= 0) & (density.mean <= 1)).all()
    for image in (torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.rand(2, 3, 4, 4)):
        log_prob = density.log_prob(image)
        assert log_prob.shape == (2,)
        assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(density.log_prob(torch.zeros(2, 3, 4, 4)).sum(), output)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_a_likelihood_integrates_to_one(likelihood: Likelihood) -> None:
    density = likelihood(torch.full((1, 1, 1, 1), 0.3))
    values = torch.linspace(-8, 8, 200_001).view(-1, 1, 1, 1)
    assert torch.trapezoid(density.log_prob(values).exp(), values.flatten()).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_samples_have_the_mean_and_variance_that_are_claimed(likelihood: Likelihood) -> None:
    torch.manual_seed(0)
    density = likelihood(torch.full((1, 1, 2, 2), 0.7))
    samples = density.sample((40_000,))
    torch.testing.assert_close(samples.mean(0), density.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(samples.var(0), density.variance, atol=0.02, rtol=0.05)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_a_prior_is_a_density_over_latents(prior: Prior) -> None:
    torch.manual_seed(0)
    density = prior()
    samples = density.sample((5,))
    assert samples.shape == (5, prior.nlatent)
    assert density.log_prob(samples).shape == (5,)
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 61)] * 3)
    assert (density.log_prob(grid).exp().sum() * 0.2**3).item() == pytest.approx(1, abs=1e-3)


def test_sigma_squared_one_half_is_the_summed_squared_error() -> None:
    torch.manual_seed(0)
    output, image = torch.randn(5, 1, 28, 28), torch.rand(5, 1, 28, 28)
    density = Gaussian(0.5)(output)
    squared_error = (torch.sigmoid(output) - image).square().sum((1, 2, 3))
    assert density.log_normalizer == pytest.approx(448.734, abs=5e-4)
    assert density.log_normalizer == pytest.approx(784 / 2 * math.log(math.pi))
    torch.testing.assert_close(-density.log_prob(image), squared_error + 448.734, atol=1e-3, rtol=0)


def test_distributions_agree_with_torch() -> None:
    torch.manual_seed(0)
    mean, log_sigma, value = torch.randn(3, 4, 5).unbind()
    ours, theirs = DiagonalNormal(mean, log_sigma), Independent(Normal(mean, log_sigma.exp()), 1)
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value))
    torch.testing.assert_close(ours.variance, theirs.variance)
    image = torch.rand(4, 1, 5, 5)
    isotropic = IsotropicNormal(image.roll(1, 0), 0.3)
    reference = Independent(Normal(image.roll(1, 0), math.sqrt(0.3)), 3)
    torch.testing.assert_close(isotropic.log_prob(image), reference.log_prob(image))


@pytest.mark.parametrize("standard", [True, False])
def test_kl_is_the_closed_form(standard: bool) -> None:
    torch.manual_seed(0)
    q_mean, q_log_sigma, p_mean, p_log_sigma = torch.randn(4, 6, 5, dtype=torch.float64).unbind()
    if standard:
        p_mean, p_log_sigma = torch.zeros(2, 6, 5, dtype=torch.float64).unbind()
    p = StandardNormal(p_mean) if standard else DiagonalNormal(p_mean, p_log_sigma)
    reference = kl_divergence(
        MultivariateNormal(q_mean, torch.diag_embed(q_log_sigma.exp() ** 2)),
        MultivariateNormal(p_mean, torch.diag_embed(p_log_sigma.exp() ** 2)),
    )
    ours = kl(DiagonalNormal(q_mean, q_log_sigma), p, q_mean)
    torch.testing.assert_close(ours, reference, rtol=1e-9, atol=0)
    assert (ours > 0).all()
    assert kl(p, p, q_mean).abs().max() == 0


def test_kl_without_a_closed_form_is_estimated_at_the_sample() -> None:
    q = DiagonalNormal(torch.zeros(2, 3), torch.zeros(2, 3))
    p = Independent(torch.distributions.Laplace(torch.zeros(2, 3), torch.ones(2, 3)), 1)
    z = torch.ones(2, 3)
    torch.testing.assert_close(kl(q, p, z), q.log_prob(z) - p.log_prob(z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("raw", [-1e4, -20.0, 20.0, 1e4])
def test_log_sigma_is_bounded_and_pulled_back(raw: float, dtype: torch.dtype) -> None:
    value = torch.full((1, 1), raw, dtype=dtype, requires_grad=True)
    log_sigma = bounded_log_sigma(value)
    loss = kl(DiagonalNormal(torch.zeros(1, 1), log_sigma), StandardNormal(torch.zeros(1, 1)), torch.zeros(1, 1))
    (gradient,) = torch.autograd.grad(loss.sum(), value)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert torch.sign(gradient).item() == math.copysign(1, raw)


def test_log_sigma_is_untouched_where_a_vae_works() -> None:
    raw = torch.linspace(-8, 2, 1001)
    assert torch.equal(bounded_log_sigma(raw), raw)


def test_log_sigma_joins_smoothly() -> None:
    raw = torch.tensor([1.9, 2.1, -7.9, -8.1, 30.0, -1e4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bounded_log_sigma, raw)
    ends = torch.tensor([2 - 1e-9, 2 + 1e-9, -8 - 1e-9, -8 + 1e-9], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(bounded_log_sigma(ends).sum(), ends)
    torch.testing.assert_close(slope, torch.ones_like(slope))

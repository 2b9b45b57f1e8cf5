"""What the rate is spent on, against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from linear_gaussian import SIDE, linear_gaussian_vae, marginal
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, MultivariateNormal

from vae_lab.evaluation.metrics import latents
from vae_lab.evaluation.metrics.latents import (
    ELBOSurgery,
    Mean,
    active_units,
    elbo_surgery,
    latents_figure,
    log_aggregate,
)
from vae_lab.probability.distributions import DiagonalNormal, StandardNormal
from vae_lab.probability.priors import gaussian_mixture


def posteriors(n: int = 40, nlatent: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, nlatent, generator=generator), torch.randn(n, nlatent, generator=generator) - 1


def standard(nlatent: int) -> Distribution:
    return StandardNormal(torch.zeros(nlatent))


def exact_posteriors(n: int) -> tuple[Tensor, Tensor]:
    """Those of the linear model, which are exact, of images that it draws."""
    torch.manual_seed(0)
    model = linear_gaussian_vae()
    with torch.no_grad():
        posterior = model.posterior(marginal(model).sample((n,)).view(n, 1, SIDE, SIDE))
    return posterior.mean, posterior.log_sigma


def near(estimate: Mean, expected: float, slack: float = 0.0) -> bool:
    return abs(estimate.value - expected) < 4 * estimate.standard_error + slack


def test_units_count_as_active_by_the_variance_of_their_means() -> None:
    means = torch.tensor([-1.0, 1.0]).repeat(50)[:, None] * torch.tensor([0, 0.05, 0.0999, 0.1001, 2]) + 7
    assert active_units(means, 0.01) == 2
    assert active_units(means, 0.001) == 4
    assert active_units(torch.zeros(10, 6), 0.01) == 0


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_the_aggregate_posterior_is_the_mixture_of_all(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "CHUNK", chunk)
    means, log_sigmas = posteriors()
    z = 2 * torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
    mixture = DiagonalNormal(means.double(), log_sigmas.double()).log_prob(z.double()[:, None])
    expected = mixture.logsumexp(1) - math.log(len(means))
    torch.testing.assert_close(log_aggregate(z, means, log_sigmas), expected, rtol=0, atol=1e-11)


def test_multiplied_out_squares_bear_the_smallest_sigma() -> None:
    means, _ = posteriors(500, 64)
    log_sigmas = torch.full_like(means, -10.0)
    z = means + log_sigmas.exp() * torch.randn(means.shape, generator=torch.Generator().manual_seed(1))
    own = DiagonalNormal(means.double(), log_sigmas.double()).log_prob(z.double())
    torch.testing.assert_close(log_aggregate(z, means, log_sigmas), own - math.log(500), rtol=0, atol=1e-4)


def test_the_exact_posterior_spends_its_rate_on_information() -> None:
    """I(x; z) = 1/2 log det(I + W'W / variance), and the aggregate posterior is the prior.

    With n images the aggregate is a mixture around n points instead: both terms are off by what is left of the KL from
    that mixture to the prior, which falls with n.
    """
    expected = -exact_posteriors(1)[1].sum().item()  # the posterior's precision is I + W'W / variance
    leftovers = []
    for n in (100, 1000, 10_000):
        result = elbo_surgery(*exact_posteriors(n), standard(3), ndraws=3000, seed=1)
        leftovers.append(result.marginal_kl.value)
    assert near(result.marginal_kl, 0, slack=0.004)
    assert near(result.mutual_information, expected)
    assert result.mutual_information.standard_error < 0.02 * expected
    assert all(later < earlier for earlier, later in pairwise(leftovers))


def test_posteriors_far_apart_tell_the_image() -> None:
    means = 20 * torch.eye(50)
    result = elbo_surgery(means, torch.full_like(means, -3.0), standard(50), ndraws=200, seed=0)
    assert result.mutual_information.value == pytest.approx(math.log(50), abs=1e-6)
    assert result.mutual_information.standard_error < 1e-6
    assert result.marginal_kl.value == pytest.approx(result.rate.value - math.log(50), abs=1e-6)


def test_a_posterior_that_is_the_prior_says_nothing() -> None:
    means = torch.zeros(30, 4)
    result = elbo_surgery(means, means, standard(4), ndraws=100, seed=0)
    for part in result:
        assert part.value == pytest.approx(0, abs=1e-6)
    assert active_units(means, 0.01) == 0


def test_a_shifted_aggregate_is_charged_to_the_marginal() -> None:
    means = torch.full((30, 2), 3.0)
    result = elbo_surgery(means, torch.zeros(30, 2), standard(2), ndraws=20_000, seed=0)
    assert result.mutual_information.value == pytest.approx(0, abs=1e-6)
    assert near(result.marginal_kl, 9.0)
    assert result.marginal_kl.standard_error == pytest.approx(math.sqrt(18 / 20_000), rel=0.05)


def test_the_parts_add_up_and_the_rate_is_the_kl() -> None:
    means, log_sigmas = posteriors()
    result = elbo_surgery(means, log_sigmas, standard(3), ndraws=20_000, seed=0)
    assert result.rate.value == pytest.approx(result.mutual_information.value + result.marginal_kl.value, abs=1e-9)
    variance = (2 * log_sigmas).exp()
    assert near(result.rate, 0.5 * (means.square() + variance - 1 - variance.log()).sum(1).mean().item())
    assert result.mutual_information.value < math.log(40)


def test_chunks_change_nothing_and_seeds_do(monkeypatch: pytest.MonkeyPatch) -> None:
    means, log_sigmas = posteriors()
    results = []
    for seed, chunk in ((0, 500), (0, 7), (1, 500)):
        monkeypatch.setattr(latents, "CHUNK", chunk)
        results.append(elbo_surgery(means, log_sigmas, standard(3), ndraws=500, seed=seed))
    flat = [torch.tensor(result) for result in results]
    torch.testing.assert_close(flat[0], flat[1], rtol=0, atol=1e-6)
    assert (flat[0] != flat[2]).all()


PRIORS = [
    gaussian_mixture(torch.tensor([0.3, 0.7]), torch.randn(2, 3), torch.eye(3).repeat(2, 1, 1)),
    MultivariateNormal(torch.zeros(3), 2 * torch.eye(3)),
]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: type(prior).__name__)
def test_any_density_can_be_the_prior(prior: Distribution) -> None:
    assert isinstance(prior, MixtureSameFamily | MultivariateNormal)
    result = elbo_surgery(*posteriors(), prior, ndraws=50, seed=0)
    assert isinstance(result, ELBOSurgery)
    assert all(math.isfinite(number) for part in result for number in part)


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        elbo_surgery(*posteriors(), standard(3), ndraws=1, seed=0)


@pytest.mark.parametrize("nlatent", [2, 16, 32, 128, 2000])
def test_the_labels_of_the_figure_do_not_collide(nlatent: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = latents_figure(torch.randn(40, nlatent), torch.linspace(0.1, 5, nlatent))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axes in figure.axes:
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in axes.get_xticklabels()]
        assert len(boxes) >= min(nlatent, 16)
        assert all(first.x1 < second.x0 for first, second in pairwise(boxes))
    left, right = figure.axes
    assert right.yaxis.label.get_window_extent().x0 > left.bbox.x1

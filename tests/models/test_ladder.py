"""Hierarchies of latents: one path, three distributions, and the laws that every model obeys."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from vae_lab.data.images import ImageSet
from vae_lab.data.sample import Sample
from vae_lab.evaluation.figures import traversals
from vae_lab.evaluation.metrics.latents import active_units, posterior_statistics
from vae_lab.evaluation.metrics.reconstruction import reconstruct_set
from vae_lab.models.ladder import Ladder
from vae_lab.models.ladder_conv import GridDecoder, GridEncoder
from vae_lab.models.ladder_mlp import DenseDecoder, DenseEncoder
from vae_lab.probability import scores
from vae_lab.probability.distributions import DiagonalNormal, kl
from vae_lab.probability.likelihoods import Bernoulli, Gaussian, Logistic
from vae_lab.probability.objectives import ELBO, IWAE, DReG, FreeBits, Objective
from vae_lab.probability.priors import Prior, StandardNormal, VampPrior
from vae_lab.sampling.temperature import tempered

GRID: dict[str, Any] = {"widths": [4, 6], "blocks": [1, 1]}
GROUPS: dict[str, Any] = {"vector": 3, "groups": [(2, 2), (1, 1)]}
DENSE: dict[str, Any] = {"width": 12, "groups": [3, 2, 4]}


def grid(image_size: int = 8, channels: int = 1, likelihood: Any = None, **changes: Any) -> Ladder:
    settings = GRID | GROUPS | changes
    both = {key: settings[key] for key in GRID}
    return Ladder(
        encoder=partial(GridEncoder, **both), decoder=partial(GridDecoder, **settings),
        likelihood=likelihood or Bernoulli(), prior=StandardNormal, channels=channels, image_size=image_size,
    )  # fmt: skip


def dense(image_size: int = 8, channels: int = 1, likelihood: Any = None, **changes: Any) -> Ladder:
    settings = DENSE | changes
    return Ladder(
        encoder=partial(DenseEncoder, **settings), decoder=partial(DenseDecoder, **settings),
        likelihood=likelihood or Bernoulli(), prior=StandardNormal, channels=channels, image_size=image_size,
    )  # fmt: skip


def stirred(model: Ladder) -> Ladder:
    """The model with larger weights, since new ones hardly look at what is above them."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(params=[grid, dense], ids=["grid", "dense"])
def model(request: pytest.FixtureRequest) -> Ladder:
    torch.manual_seed(0)
    return stirred(request.param())


def images(n: int, channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(2)).round()


def test_a_path_says_what_the_distributions_say(model: Ladder) -> None:
    posterior = model.posterior(images(3))
    torch.manual_seed(1)
    inference = model.infer(posterior, (4,))
    torch.manual_seed(1)
    z = posterior.rsample((4,))
    assert z.shape == (4, 3, model.nlatent)
    torch.testing.assert_close(z, inference.z)
    torch.testing.assert_close(posterior.log_prob(z), inference.posterior.log_prob(z))
    torch.testing.assert_close(model.prior().log_prob(z), inference.prior.log_prob(z))
    again = model.generative(z.flatten(0, 1))
    torch.testing.assert_close(again.mean, inference.generative.mean)


def test_lower_groups_depend_on_those_above(model: Ladder) -> None:
    inference = model.infer(model.posterior(images(1)), (5,))
    first = model.decoder.sizes[0]
    for density, top_moves in ((inference.posterior, False), (inference.prior, False)):
        assert isinstance(density, DiagonalNormal)
        spread = density.loc.flatten(0, 1).std(0)
        assert (spread[first:] > 1e-4).all()
        assert bool((spread[:first] > 1e-6).any()) == top_moves


@pytest.mark.parametrize(
    "make",
    [partial(grid, groups=[(1, 1)], vector=1, widths=[4], blocks=[1], image_size=2), partial(dense, groups=[1, 1])],
    ids=["grid", "dense"],
)
def test_prior_and_posterior_integrate_to_one(make: Callable[..., Ladder]) -> None:
    torch.manual_seed(0)
    model = stirred(make()).double()
    assert model.nlatent == 2
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]).item() ** 2
    with torch.no_grad():
        image = images(1, size=model.image_size).double()
        prior = model.prior().log_prob(points)
        posterior = model.posterior(image).log_prob(points[:, None])[:, 0]
    assert prior.exp().sum().item() * cell == pytest.approx(1, abs=1e-3)
    assert posterior.exp().sum().item() * cell == pytest.approx(1, abs=1e-3)


def test_the_rate_along_paths_is_the_kl_in_expectation(model: Ladder) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        q, z, _, p = model.infer(model.posterior(images(1)), (20_000,))
        closed, sampled = kl(q, p, z)[:, 0], (q.log_prob(z) - p.log_prob(z))[:, 0]
    difference = closed - sampled
    assert abs(difference.mean().item()) < 4 * difference.std().item() / math.sqrt(len(z))
    assert closed.var() < sampled.var()
    assert closed.mean() > 0.1


def test_more_samples_never_loosen_the_bound(model: Ladder) -> None:
    image = images(1).expand(4000, 1, 8, 8).contiguous()
    batch = Sample(image, torch.zeros(len(image), dtype=torch.int64))
    with torch.no_grad():
        losses = [objective(model, batch, 0).loss for objective in (ELBO(1.0), IWAE(4), IWAE(16))]
        estimate = scores.importance_estimate(model, images(1), 20_000, 4000)
    means = [loss.mean().item() for loss in losses]
    error = losses[0].std().item() / math.sqrt(len(image))
    assert means[0] + 3 * error > means[1] > means[2] - 3 * error
    assert estimate.nll.item() < means[2] + 3 * error


@pytest.mark.parametrize("objective", [ELBO(1.0), FreeBits(0.1), IWAE(3)], ids=lambda o: type(o).__name__)
def test_every_parameter_receives_a_gradient(model: Ladder, objective: Objective) -> None:
    objective(model, Sample(images(4), torch.zeros(4, dtype=torch.int64)), 0).loss.mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize(
    ("likelihood", "channels"), [(Logistic(), 3), (Gaussian(0.5), 1)], ids=["logistic", "gaussian"]
)
def test_images_come_back_in_their_shape(size: int, likelihood: nn.Module, channels: int) -> None:
    for make in (grid, dense):
        model = make(size, channels, likelihood)
        inference = model(images(2, channels, size))
        assert inference.generative.mean.shape == (2, channels, size, size)
        assert inference.z.shape == (2, model.nlatent) == (2, sum(model.decoder.sizes))
        assert model.generative(model.prior().sample((2,))).mean.shape == (2, channels, size, size)


def test_a_new_models_posterior_is_its_prior_but_for_the_top() -> None:
    torch.manual_seed(0)
    inference = grid(28)(images(2, size=28))
    assert kl(inference.posterior, inference.prior, inference.z).max() < 20
    assert inference.generative.mean.std() < 0.2


def test_what_looks_at_latents_takes_a_ladder(model: Ladder) -> None:
    means, rates = posterior_statistics(model, images(5))
    assert means.shape == (5, model.nlatent)
    assert rates.shape == (model.nlatent,)
    assert (rates >= 0).all()
    assert traversals(model, images(5)).shape[0] == 3
    torch.testing.assert_close(model.posterior(images(2)).mean, model.posterior(images(2)).mean)


def test_a_group_that_says_nothing_is_not_active(model: Ladder) -> None:
    """Its posterior mean moves with the groups above, as the prior's does."""
    for name, parameter in model.named_parameters():
        if "posterior" in name and "top" not in name:
            with torch.no_grad():
                parameter.zero_()
    pixels = (images(40) * 255).to(torch.uint8)
    found = reconstruct_set(model, ImageSet(pixels, torch.zeros(40, dtype=torch.int64)))
    first = model.decoder.sizes[0]
    assert found.means[:, first:].var(0).max() > 1e-3
    assert active_units(found.moves[:, first:], 1e-6) == 0
    assert active_units(found.moves[:, :first], 1e-6) == first


VAMP = partial(VampPrior, channels=1, image_size=8, ncomponents=2, logit_mean=0.0, logit_std=1.0)
WRONG = {
    "cannot be halved 2 times": lambda: grid(10),
    "model.blocks": lambda: grid(blocks=[1]),
    "from the top down": lambda: grid(groups=[(1, 1), (2, 1)]),
    "halvings from 2 to 1": lambda: grid(groups=[(3, 1)]),
    r"model.groups\[0\]": lambda: grid(groups=[(2, 0)]),
    "model.vector": lambda: grid(vector=0),
    "model.groups must": lambda: dense(groups=[]),
    "model.width": lambda: dense(width=0),
    "choose prior=standard_normal": lambda: with_prior(VAMP),
    "choose objective=iwae": lambda: DReG(2)(grid(), Sample(images(2), torch.zeros(2, dtype=torch.int64)), 0),
}


def with_prior(prior: Callable[..., Prior]) -> Ladder:
    return Ladder(
        encoder=partial(DenseEncoder, **DENSE), decoder=partial(DenseDecoder, **DENSE),
        likelihood=Bernoulli(), prior=prior, channels=1, image_size=8,
    )  # fmt: skip


def test_a_temperature_scales_the_deviations_of_every_group() -> None:
    """Near 0, all draws are the mean of each group given those above; at half, the top group deviates half as much."""
    model = stirred(dense())
    prior = model.prior()
    torch.testing.assert_close(tempered(prior, 1e-9).sample((3,)), prior.mean.detach().expand(3, -1))
    draws = []
    for temperature in (1.0, 0.5):
        torch.manual_seed(0)
        draws.append(tempered(prior, temperature).sample((50,))[:, : model.decoder.sizes[0]])
    top = prior.mean.detach()[: model.decoder.sizes[0]]
    torch.testing.assert_close(draws[1] - top, 0.5 * (draws[0] - top))


@pytest.mark.parametrize("message", WRONG)
def test_settings_are_checked(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WRONG[message]()

"""Scores: functions of one image and a seed, against closed forms and each other."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from linear_gaussian import SIDE, linear_gaussian_vae, marginal
from torch import Tensor

from vae_lab.detection.scores import anomaly
from vae_lab.detection.scores.anomaly import (
    Complexity,
    IwaeNLL,
    LadderLLR,
    NegELBO,
    Rate,
    ReconstructionError,
    Score,
    Typicality,
)
from vae_lab.detection.scores.ensembles import WAIC, Ensemble, EnsembleMean
from vae_lab.detection.scores.features import FeatureDistance
from vae_lab.detection.scores.latent_path import LatentCopula, LatentPath, tail
from vae_lab.detection.scores.regret import LikelihoodRegret
from vae_lab.models.ladder import Ladder
from vae_lab.models.ladder_mlp import DenseDecoder, DenseEncoder
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.vae import VAE
from vae_lab.probability.importance import common_noise
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.likelihoods import Bernoulli, Gaussian, SigmaVAE
from vae_lab.probability.priors import Prior, StandardNormal, VampPrior
from vae_lab.system.config_dir import CONF
from vae_lab.system.randomness import seeded

EVERY: list[Callable[[], Score]] = [
    ReconstructionError,
    partial(NegELBO, nsamples=3, seed=0),
    partial(Rate, nsamples=3, seed=0),
    partial(IwaeNLL, nsamples=20, chunk=16, seed=0),
    lambda: Typicality(NegELBO(3, 0)),
    lambda: Complexity(NegELBO(3, 0)),
    partial(LatentPath, ncomponents=2, seed=0),
    partial(LatentCopula, nquantiles=20),
    partial(FeatureDistance, network="lite0", npatches=200, seed=0),
]
REGRET = partial(LikelihoodRegret, nsteps=6, lr=0.05, npairs=2, seed=0, precision="32-true")
VAMP = partial(VampPrior, channels=1, image_size=8, ncomponents=5, logit_mean=0.0, logit_std=2.0)


def vae(prior: Callable[..., Prior] = StandardNormal) -> VAE:
    torch.manual_seed(1)
    size: dict[str, Any] = {"width": 16, "nblocks": 1}
    return VAE(
        encoder=partial(MLPEncoder, **size), decoder=partial(MLPDecoder, **size),
        likelihood=Gaussian(0.05), prior=prior, nlatent=3, channels=1, image_size=8,
    ).eval()  # fmt: skip


def ladder() -> Ladder:
    """A ladder with larger weights than a new one, whose groups hardly look at each other."""
    torch.manual_seed(1)
    size: dict[str, Any] = {"width": 12, "groups": [3, 2, 4]}
    model = Ladder(
        encoder=partial(DenseEncoder, **size), decoder=partial(DenseDecoder, **size),
        likelihood=Gaussian(0.05), prior=StandardNormal, channels=1, image_size=8,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def images(n: int, seed: int = 2) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def fitted(make: Callable[[], Score], model: LatentModel) -> Score:
    score = make()
    score.fit(model, images(64, seed=7).split(20))
    return score


CASES = [
    *[(make, model) for make in EVERY for model in (vae, partial(vae, VAMP), ladder)],
    (REGRET, vae),
    (REGRET, partial(vae, VAMP)),
    (partial(LadderLLR, k=1, nsamples=3, seed=0), ladder),
    (partial(LadderLLR, k=2, nsamples=3, seed=0), ladder),
]


def named(value: object) -> str:
    if isinstance(value, partial):
        return value.func.__name__ + "".join(a.func.__name__ for a in value.args if isinstance(a, partial))
    return "" if getattr(value, "__name__", "") == "" else value.__name__  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("make", "of"), CASES, ids=named)
def test_a_score_is_a_function_of_one_image_and_the_seed(
    make: Callable[[], Score], of: Callable[[], LatentModel]
) -> None:
    model, batch = of(), images(7)
    score = fitted(make, model)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = score(model, batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.shape == (7,)
    assert found.dtype == batch.dtype
    assert found.isfinite().all()
    assert found.unique().numel() > 1
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    torch.manual_seed(6)
    assert torch.equal(score(model, batch), found)
    close = partial(torch.testing.assert_close, atol=1e-3, rtol=1e-4)
    close(torch.cat([score(model, one) for one in batch.split(1)]), found)
    close(score(model, batch.flip(0)), found.flip(0))
    close(score(model, torch.cat([100 * images(3, seed=9), batch]))[3:], found)


@pytest.mark.parametrize("make", EVERY, ids=named)
def test_what_was_fitted_is_in_the_state(make: Callable[[], Score]) -> None:
    model = vae()
    score, again = fitted(make, model), make()
    again.load_state_dict(score.state_dict())
    assert torch.equal(again(model, images(5)), score(model, images(5)))


@pytest.mark.parametrize("make", EVERY[4:5] + EVERY[6:], ids=named)
def test_an_unfitted_score_says_so(make: Callable[[], Score]) -> None:
    with pytest.raises(ValueError, match="call fit"):
        make()(vae(), images(2))


@pytest.mark.parametrize("of", [vae, ladder], ids=["vae", "ladder"])
def test_given_noise_takes_the_place_of_fresh_draws(of: Callable[[], LatentModel]) -> None:
    model = of()
    posterior = model.posterior(images(1))
    torch.manual_seed(3)
    fresh = model.infer(posterior, (4,))
    torch.manual_seed(3)
    assert torch.equal(model.infer(posterior, (4,), None).z, fresh.z)
    noise = (fresh.z - fresh.posterior.mean) / fresh.posterior.stddev
    again = model.infer(posterior, (4,), noise)
    torch.testing.assert_close(again.z, fresh.z)
    torch.testing.assert_close(again.generative.mean, fresh.generative.mean)
    central = model.infer(posterior, noise=torch.zeros(1, model.nlatent))
    torch.testing.assert_close(central.z, posterior.mean)
    several = model.infer(model.posterior(images(3)), (4,), noise)
    torch.testing.assert_close((several.z - several.posterior.mean) / several.posterior.stddev, noise.expand(4, 3, -1))


@pytest.fixture
def exact() -> tuple[VAE, Tensor, Tensor]:
    """The linear model, images of its own, and their -log p(x)."""
    model = linear_gaussian_vae()
    with seeded("exact"):
        flat = marginal(model).sample((50,))
    return model, flat.view(-1, 1, SIDE, SIDE), -marginal(model).log_prob(flat)


def test_likelihoods_are_the_closed_form(exact: tuple[VAE, Tensor, Tensor]) -> None:
    model, batch, expected = exact
    for score in (NegELBO(1, 0), NegELBO(16, 1), IwaeNLL(1, 10, 0), IwaeNLL(50, 7, 0)):
        torch.testing.assert_close(score(model, batch), expected, atol=1e-3, rtol=0)
    posterior = model.posterior(batch)
    closed = torch.distributions.Normal(posterior.mean, posterior.stddev)
    standard = torch.distributions.Normal(0.0, 1.0)
    rates = torch.distributions.kl_divergence(closed, standard).sum(1)
    torch.testing.assert_close(Rate(1, 0)(model, batch), rates.detach())


def test_an_inexact_posterior_costs_what_theory_says(exact: tuple[VAE, Tensor, Tensor]) -> None:
    """Widening the decoder leaves the ELBO KL(q || p(z | x)) above -log p(x), and IWAE between the two."""
    model, batch, _ = exact
    with torch.no_grad():
        model.decoder.weight.mul_(1.05)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    nll = -marginal(model).log_prob(batch.flatten(1))
    right = linear_gaussian_vae()
    with torch.no_grad():
        right.decoder.weight.mul_(1.05)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        right.encoder.weight.mul_(1.05)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        q, p = model.posterior(batch), right.posterior(batch)
    gap = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(NegELBO(400, 0)(model, batch), nll + gap, atol=0.05, rtol=0)
    score = IwaeNLL(1000, 100_000, 0)
    estimate = score.estimate(model, batch)
    torch.testing.assert_close(estimate.nll, nll, atol=0.05, rtol=0)
    standard = (estimate.nll - nll) / score.standard_error(estimate)
    assert standard.abs().max() < 5
    assert ((estimate.effective > 100) & (estimate.effective < 1000)).all()
    off = (IwaeNLL(1000, 100_000, seed).estimate(model, batch[:1]).nll for seed in range(40))
    spread = torch.cat(list(off)).std()
    assert spread.item() == pytest.approx(score.standard_error(estimate)[0].item(), rel=0.4)


def test_reconstruction_error_is_the_mean_paths(exact: tuple[VAE, Tensor, Tensor]) -> None:
    model, batch, _ = exact
    expected = (batch - model.generative(model.posterior(batch).mean).mean).square().sum((1, 2, 3))
    torch.testing.assert_close(ReconstructionError()(model, batch), expected.detach())


def test_typicality_is_zero_at_its_mean_and_grows_both_ways(exact: tuple[VAE, Tensor, Tensor]) -> None:
    model, batch, nll = exact
    score = Typicality(NegELBO(1, 0))
    score.fit(model, batch.split(7))
    torch.testing.assert_close(score.centre, nll.mean(), atol=1e-3, rtol=0)
    torch.testing.assert_close(score(model, batch), (nll - nll.mean()).abs(), atol=2e-3, rtol=0)
    score.fit(model, batch[:1].split(1))
    assert score(model, batch[:1]).item() == pytest.approx(0, abs=1e-5)


def test_complexity_orders_constant_gradient_and_noise() -> None:
    noise = images(1)
    constant = torch.full_like(noise, 0.5)
    ramp = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    lengths = anomaly.compressed_nats(torch.cat([constant, ramp, noise]))
    assert lengths[0] < lengths[1] < lengths[2]
    assert lengths[2].item() == pytest.approx(64 * 8 * math.log(2), rel=0.2), "noise does not compress"
    model, nll = vae(), NegELBO(3, 0)
    both = torch.cat([constant, noise])
    torch.testing.assert_close(Complexity(nll)(model, both), nll(model, both) - lengths[[0, 2]])


def test_complexity_finds_a_repeated_row_in_colour() -> None:
    colours = images(3).view(1, 3, 8, 8)
    striped = colours[:, :, :1].expand(-1, -1, 8, -1)
    assert anomaly.compressed_nats(striped) < 0.5 * anomaly.compressed_nats(colours)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_regret_is_nothing_where_the_posterior_is_exact_and_the_gap_where_it_is_not(
    precision: str, exact: tuple[VAE, Tensor, Tensor]
) -> None:
    model, batch, _ = exact
    score = LikelihoodRegret(nsteps=100, lr=0.05, npairs=16, seed=0, precision=precision)
    assert score(model, batch).abs().max() < 0.05
    with torch.no_grad():
        model.encoder.weight.mul_(0.7)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        q, p = model.posterior(batch), linear_gaussian_vae().posterior(batch)
    gap = torch.distributions.kl_divergence(q, p)
    assert gap.mean() > 0.3
    torch.testing.assert_close(score(model, batch), gap, atol=0.1, rtol=0.02)


@pytest.mark.parametrize(("precision", "steps"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_regret_fits_in_its_precision_and_measures_in_single(
    precision: str, steps: torch.dtype, exact: tuple[VAE, Tensor, Tensor]
) -> None:
    model, batch, _ = exact
    drawn: list[torch.dtype] = []
    handle = model.decoder.register_forward_hook(lambda _module, _given, made: drawn.append(made.dtype))
    LikelihoodRegret(nsteps=3, lr=0.05, npairs=2, seed=0, precision=precision)(model, batch)
    handle.remove()
    assert drawn == [steps] * 6 + [torch.float32] * 8


def test_regret_loses_to_no_loop(exact: tuple[VAE, Tensor, Tensor]) -> None:
    model, batch, _ = exact
    score = LikelihoodRegret(nsteps=20, lr=0.05, npairs=2, seed=0, precision="32-true")
    one_by_one = torch.cat([score(model, one) for one in batch[:5].split(1)])
    together = score(model, batch)[:5]  # a difference of two bounds of a hundred nats in single precision
    torch.testing.assert_close(together, one_by_one, atol=1e-3, rtol=1e-4)


def test_latent_path_finds_what_is_out_of_the_way() -> None:
    model = vae()
    strange = 5 * images(4)
    for make in EVERY[6:]:
        score = fitted(make, model)
        normal = score(model, images(200, seed=11))
        assert (score(model, strange) > normal.quantile(0.95)).all()


def test_copula_is_the_largest_of_three_tails() -> None:
    model = vae()
    score = fitted(partial(LatentCopula, nquantiles=9), model)
    assert isinstance(score, LatentCopula)
    assert score(model, 1e3 * images(1)).item() <= 3 * math.log(10) + 1e-5
    assert score(model, images(500)).min() > 0


def test_the_ladders_ratio_is_the_difference_of_two_bounds() -> None:
    model, batch = ladder(), images(4)
    assert (LadderLLR(0, 3, 0)(model, batch) == 0).all()
    noise = common_noise(model, batch, 5, 0)
    posterior = model.posterior(batch)
    differences = []
    for one in noise:
        inference = model.infer(posterior, noise=one)
        top = inference.z[:, :3]
        upper = model.decoder(None, _continued(top, one[:, 3:].expand(4, -1)), 4)
        torch.testing.assert_close(upper.z[:, :3], top)
        q, p = inference.posterior.each_latent(), inference.prior.each_latent()  # pyright: ignore[reportAttributeAccessIssue]
        terms = (p.log_prob(inference.z[..., None]) - q.log_prob(inference.z[..., None]))[:, 3:].sum(1)
        differences.append(
            inference.generative.log_prob(batch) + terms - model.likelihood(upper.output).log_prob(batch)
        )
    expected = torch.stack(differences).mean(0).detach()
    torch.testing.assert_close(LadderLLR(2, 5, 0)(model, batch), expected, rtol=1e-4, atol=1e-3)


def _continued(top: Tensor, noise: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The topmost latents as given, all others from the prior."""
    left = iter([top, *noise.split([2, 4], 1)])

    def choose(prior: Tensor, posterior: Tensor | None) -> Tensor:
        part = next(left)
        mean, log_sigma = prior.chunk(2, 1)
        return part if part is top else mean + log_sigma.exp() * part

    return choose


def test_waic_is_mean_plus_variance() -> None:
    nll = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert WAIC(ReconstructionError())(nll).tolist() == [4.0, 5.0]
    assert EnsembleMean(ReconstructionError())(nll).tolist() == [2.0, 5.0]


def test_an_estimate_comes_with_its_error_and_bits() -> None:
    model, score = vae(), IwaeNLL(50, 16, 0)
    found = score.describe(model, images(4))
    assert list(found) == ["score", "standard_error", "effective"]
    assert torch.equal(found["score"], score(model, images(4)))
    model.likelihood = Bernoulli()
    described = score.describe(model, images(4).round())
    torch.testing.assert_close(described["bits_per_dimension"], described["score"] / (64 * math.log(2)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: NegELBO(0, 0), r"score\.nsamples"),
        (lambda: Rate(0, 0), r"score\.nsamples"),
        (lambda: IwaeNLL(5, 0, 0), r"score\.chunk"),
        (lambda: LikelihoodRegret(5, 0.0, 5, 0, "auto"), r"score\.lr"),
        (lambda: LikelihoodRegret(5, 0.1, 5, 0, "16-mixed"), r"score\.precision must be one of"),
        (lambda: LatentPath(0, 0), r"score\.ncomponents"),
        (lambda: LatentCopula(0), r"score\.nquantiles"),
        (lambda: LadderLLR(-1, 1, 0), r"score\.k"),
        (lambda: LadderLLR(3, 1, 0)(ladder(), images(2)), r"score\.k must be less than the 3 groups"),
        (lambda: LadderLLR(1, 1, 0)(vae(), images(2)), "use a ladder"),
        (lambda: REGRET()(ladder(), images(2)), "use a plain VAE"),
    ],
)
def test_settings_are_checked(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


FILES = [path for path in sorted((CONF / "score").glob("*.yaml")) if path.stem not in {"all", "auto"}]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_a_score(path: Any) -> None:
    made = instantiate(yaml.safe_load(path.read_text()))
    score = made.member if isinstance(made, Ensemble) else made
    assert isinstance(score, Score)
    model = ladder() if path.stem == "ladder_llr" else vae()
    score.fit(model, images(64, seed=7).split(32))
    assert score(model, images(3)).isfinite().all()


def test_a_tail_is_the_share_of_normal_values_below() -> None:
    values = torch.tensor([[0.0], [2.5], [9.0]], dtype=torch.float64)
    normal = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    assert tail(values, normal).flatten().tolist() == [0.25, 0.75, 1.0]


def test_all_names_every_other_file() -> None:
    entries = yaml.safe_load((CONF / "score" / "all.yaml").read_text())["defaults"]
    assert entries == [f"{path.stem}@{path.stem}" for path in FILES]


def test_one_draw_tells_nothing_of_its_error() -> None:
    found = IwaeNLL(1, 10, 0).describe(vae(), images(3))
    assert found["standard_error"].isnan().all()
    assert found["score"].isfinite().all()


@pytest.mark.parametrize("make", [Complexity, Typicality, lambda nll: Typicality(Complexity(nll))], ids=named)
def test_a_score_made_of_another_asks_for_what_that_one_needs(make: Callable[[Score], Score]) -> None:
    with pytest.raises(ValueError, match=r"learns its scale|use a plain VAE"):
        make(REGRET()).require(ladder())


def test_complexity_needs_a_scale() -> None:
    model = vae()
    with pytest.raises(ValueError, match="a fixed variance gives nats an arbitrary scale"):
        Complexity(NegELBO(1, 0)).require(model)
    model.likelihood = SigmaVAE(0.0, 10.0)
    Complexity(NegELBO(1, 0)).require(model)

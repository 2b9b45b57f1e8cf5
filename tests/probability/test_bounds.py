"""Bounds, their gradients and the estimates of the likelihood, against closed forms and each other."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from linear_gaussian import SIDE, Decoder, linear_gaussian_vae, marginal
from torch import Tensor, nn

from vae_lab.data.sample import Sample
from vae_lab.models.vae import VAE
from vae_lab.probability import scores
from vae_lab.probability.likelihoods import Bernoulli, Gaussian, Likelihood, Logistic, LogisticMixture, SigmaVAE
from vae_lab.probability.objectives import ELBO, IWAE, RAEL2, Autoencoder, DReG, FreeBits, Objective, Terms, elbo_terms
from vae_lab.probability.priors import Prior, StandardNormal, VampPrior
from vae_lab.probability.schedules import Cyclical, Linear, Schedule

NEUTRAL = [ELBO(1.0), ELBO(Linear(1.0, 1.0, 5)), ELBO(Cyclical(1.0, 1.0, 5, 0.5)), FreeBits(0.0)]
OBJECTIVES = [*NEUTRAL, ELBO(4.0), FreeBits(0.3), IWAE(1), IWAE(5), DReG(5), Autoencoder(), RAEL2(0.1, 0.01)]
LIKELIHOODS = [Gaussian(0.5), SigmaVAE(-1.0, 10.0), Bernoulli(), Logistic(), LogisticMixture(3)]
VAMP = partial(VampPrior, channels=1, image_size=4, ncomponents=5, logit_mean=0.0, logit_std=2.0)
PRIORS = [StandardNormal, VAMP]


def named(value: object) -> str:
    if isinstance(value, partial):
        return "VampPrior"
    return value.__name__ if isinstance(value, type) else type(value).__name__


class Linear16(nn.Module):
    """A linear map that flattens and unflattens as an encoder or a decoder must."""

    def __init__(self, nin: int, image_size: int, nout: int, *, encodes: bool) -> None:
        super().__init__()
        pixels = image_size**2
        self.map = nn.Linear(nin * pixels, nout) if encodes else nn.Linear(nin, nout * pixels)
        self.shape = (nout,) if encodes else (nout, image_size, image_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.flatten(1)).unflatten(1, self.shape)


def small_vae(likelihood: Likelihood, prior: Callable[..., Prior] = StandardNormal) -> VAE:
    torch.manual_seed(1)
    return VAE(
        encoder=partial(Linear16, encodes=True), decoder=partial(Linear16, encodes=False),
        likelihood=likelihood, prior=prior, nlatent=3, channels=1, image_size=4,
    )  # fmt: skip


def images(n: int) -> Sample:
    generator = torch.Generator().manual_seed(2)
    return Sample(torch.rand(n, 1, 4, 4, generator=generator).round(), torch.zeros(n, dtype=torch.int64))


def copies(image: Tensor, n: int) -> Sample:
    """One image many times, so that a batch's mean is an expectation over latents."""
    return Sample(image.expand(n, *image.shape[1:]).contiguous(), torch.zeros(n, dtype=torch.int64))


def terms(objective: Objective, model: VAE, batch: Sample, seed: int = 3, step: int = 2) -> Terms:
    torch.manual_seed(seed)
    return objective(model, batch, step)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


@pytest.fixture
def inexact() -> VAE:
    """The linear model with a decoder that its posterior doesn't quite fit."""
    model = linear_gaussian_vae()
    with torch.no_grad():
        model.decoder.weight.mul_(1.05)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return model


@pytest.mark.parametrize("objective", OBJECTIVES, ids=named)
def test_an_objective_has_terms_for_each_image_and_a_gradient(objective: Objective) -> None:
    model = small_vae(Bernoulli())
    result = terms(objective, model, images(6))
    assert all(value.shape == (6,) and value.isfinite().all() for value in result)
    result.loss.mean().backward()
    for network in (model.encoder, model.decoder):
        assert any(p.grad is not None and (p.grad != 0).any() for p in network.parameters())
    assert (result.rate > 0).all()


@pytest.mark.parametrize("objective", NEUTRAL, ids=named)
def test_neutral_settings_give_the_elbo(objective: Objective) -> None:
    model = small_vae(Gaussian(0.5))
    ours, elbo = terms(objective, model, images(6)), terms(ELBO(1.0), model, images(6))
    for value, expected in zip(ours, elbo, strict=True):
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(ours.loss, ours.distortion + ours.rate)


@pytest.mark.parametrize("objective", [IWAE(1), DReG(1)], ids=named)
def test_one_sample_is_the_elbo(objective: IWAE) -> None:
    vamp = small_vae(Bernoulli(), VAMP)  # without a closed form the rate is estimated at the same latent
    torch.testing.assert_close(terms(objective, vamp, images(6)).loss, terms(ELBO(1.0), vamp, images(6)).loss)
    normal, batch = small_vae(Bernoulli()), copies(images(1).image, 40_000)
    ours, elbo = terms(objective, normal, batch), terms(ELBO(1.0), normal, batch)
    mean, error = mean_and_error(ours.loss - elbo.loss)
    assert abs(mean) < 4 * error < 0.05


@pytest.mark.parametrize("prior", PRIORS, ids=named)
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=named)
def test_more_samples_never_loosen_the_bound(likelihood: Likelihood, prior: Callable[..., Prior]) -> None:
    model, batch = small_vae(likelihood, prior), copies(images(1).image, 3000)
    with torch.no_grad():
        losses = [mean_and_error(terms(objective, model, batch).loss) for objective in (ELBO(1.0), IWAE(4), IWAE(16))]
    for (looser, its_error), (tighter, error) in pairwise(losses):
        assert tighter < looser + 3 * math.hypot(error, its_error)


def test_the_bound_rises_to_the_log_probability(inexact: VAE) -> None:
    torch.manual_seed(0)
    flat = marginal(inexact).sample((1,))
    exact = marginal(inexact).log_prob(flat).item()
    batch = copies(flat.view(1, 1, SIDE, SIDE), 20_000)
    with torch.no_grad():
        bounds = [mean_and_error(-terms(IWAE(k), inexact, batch).loss) for k in (1, 2, 5, 20, 100)]
    means = [mean for mean, _ in bounds]
    assert means == sorted(means)
    assert means[0] < exact - 0.02
    assert means[-1] == pytest.approx(exact, abs=5e-3)
    assert all(mean < exact + 4 * error for mean, error in bounds)


def test_the_likelihood_estimate_is_the_closed_form(inexact: VAE) -> None:
    torch.manual_seed(0)
    for model, nsamples, tolerance in ((linear_gaussian_vae(), 7, 1e-4), (inexact, 600_000, 1e-3)):
        flat = marginal(model).sample((3,))
        estimate = scores.importance_estimate(model, flat.view(3, 1, SIDE, SIDE), nsamples, chunk=30_000)
        torch.testing.assert_close(estimate.nll, -marginal(model).log_prob(flat), atol=tolerance, rtol=0)
        share = estimate.effective / nsamples
        assert (share <= 1 + 1e-5).all()
        assert (share > (0.999 if nsamples == 7 else 0.3)).all()
        assert nsamples == 7 or (share < 0.97).any()


class Watched(Decoder):
    """Notes how many latents it was given."""

    def __init__(self, nin: int, image_size: int, nout: int) -> None:
        super().__init__(nin, image_size, nout)
        self.sizes: list[int] = []

    def forward(self, z: Tensor) -> Tensor:
        self.sizes.append(len(z))
        return super().forward(z)


@pytest.mark.parametrize(("nimages", "nsamples", "chunk"), [(5, 7, 10), (5, 7, 3), (5, 7, 1000), (1, 100, 9)])
def test_an_estimate_never_decodes_more_than_a_chunk(nimages: int, nsamples: int, chunk: int) -> None:
    model = linear_gaussian_vae()
    weights = model.decoder.state_dict()
    model.decoder = Watched(3, SIDE, 1)
    model.decoder.load_state_dict(weights)
    flat = marginal(model).sample((nimages,))
    estimate = scores.importance_estimate(model, flat.view(-1, 1, SIDE, SIDE), nsamples, chunk)
    assert max(model.decoder.sizes) <= chunk
    assert sum(model.decoder.sizes) == nimages * nsamples
    torch.testing.assert_close(estimate.nll, -marginal(model).log_prob(flat), atol=1e-4, rtol=0)
    torch.testing.assert_close(estimate.effective, torch.full((nimages,), float(nsamples)), atol=0, rtol=1e-3)


def test_weights_of_one_draw_count_as_one() -> None:
    """An encoder that is far off: nearly all of the weight lies on the luckiest draw."""
    model = linear_gaussian_vae()
    with torch.no_grad():
        model.decoder.weight.mul_(30)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    image = 20 * torch.ones(2, 1, SIDE, SIDE)
    assert (scores.importance_estimate(model, image, 50, 100).effective < 3).all()


def test_the_importance_weighted_bound_is_tighter_than_the_elbo() -> None:
    model, image = small_vae(Bernoulli()), images(4).image
    torch.manual_seed(0)
    with torch.no_grad():
        terms = elbo_terms(model(image), image)
    torch.testing.assert_close(terms.loss, terms.distortion + terms.rate)
    estimate = scores.importance_estimate(model, image, 200, 100)
    assert estimate.nll.mean() < terms.loss.mean()
    assert not estimate.nll.requires_grad


def test_bits_per_dimension_of_uniform_levels_are_eight() -> None:
    assert scores.bits_per_dimension(torch.tensor([12 * math.log(256)]), 12).item() == pytest.approx(8)


def gradients(objective: Objective, model: VAE, batch: Sample, seed: int) -> tuple[Tensor, Tensor]:
    """The gradient of the mean loss by the encoder's and the decoder's weights."""
    loss = terms(objective, model, batch, seed).loss.mean()
    encoder, decoder = model.encoder.weight, model.decoder.weight
    assert isinstance(encoder, Tensor)
    assert isinstance(decoder, Tensor)
    of_encoder, of_decoder = torch.autograd.grad(loss, (encoder, decoder))
    return of_encoder.flatten(), of_decoder.flatten()


def test_the_doubly_reparametrized_gradient_is_iwaes_in_expectation_and_quieter(inexact: VAE) -> None:
    torch.manual_seed(0)
    batch = copies(marginal(inexact).sample((1,)).view(1, 1, SIDE, SIDE), 1000)
    plain, doubly = (
        [gradients(objective, inexact, batch, seed) for seed in range(60)] for objective in (IWAE(8), DReG(8))
    )
    for (_, decoder), (_, same) in zip(plain, doubly, strict=True):
        torch.testing.assert_close(decoder, same)
    ours, theirs = torch.stack([g for g, _ in doubly]), torch.stack([g for g, _ in plain])
    error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4 * error).all()
    assert (theirs.mean(0).abs() > 10 * error).any(), "the test must be able to tell a gradient from none"
    assert ours.var(0).sum() < 0.5 * theirs.var(0).sum()


def test_free_bits_count_the_larger_of_the_two_for_each_latent() -> None:
    """Kingma et al. 2016: sum over latents of max(lambda, mean KL of the batch)."""
    model, batch = small_vae(Bernoulli()), images(6)
    posterior = model.posterior(batch.image)
    rates = -0.5 * (1 + 2 * posterior.log_sigma - posterior.mean.square() - posterior.variance)
    free = rates.mean(0).median().item() + 1e-4
    result = terms(FreeBits(free), model, batch)
    counted = rates.mean(0).clamp(min=free).sum()
    torch.testing.assert_close((result.loss - result.distortion).mean(), counted)
    torch.testing.assert_close(result.rate, rates.sum(1))
    large = terms(FreeBits(100.0), model, batch)
    assert (
        torch.autograd.grad((large.loss - large.distortion).sum(), list(model.encoder.parameters()))[0].abs().max() == 0
    )


def test_free_bits_need_independent_latents() -> None:
    with pytest.raises(ValueError, match="choose prior=standard_normal"):
        terms(FreeBits(0.1), small_vae(Bernoulli(), VAMP), images(2))


def test_autoencoders_see_no_noise_and_train_no_rate() -> None:
    model, batch = small_vae(Gaussian(0.5)), images(6)
    plain = terms(Autoencoder(), model, batch)
    assert torch.equal(plain.loss, plain.distortion)
    assert torch.equal(plain.loss, terms(Autoencoder(), model, batch, seed=4).loss)
    assert torch.equal(plain.loss, terms(RAEL2(0.0, 0.0), model, batch).loss)
    mean = model.posterior(batch.image).mean
    squares = sum(p.square().sum() for p in model.decoder.parameters())
    expected = -model.generative(mean).log_prob(batch.image) + 0.35 * mean.square().sum(1) + 0.01 * squares
    torch.testing.assert_close(terms(RAEL2(0.7, 0.01), model, batch).loss, expected)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Linear(0.0, 1.0, 10), {0: 0.0, 5: 0.5, 10: 1.0, 1000: 1.0}),
        (Linear(4.0, 1.0, 3), {0: 4.0, 1: 3.0, 3: 1.0, 4: 1.0}),
        (Cyclical(0.0, 1.0, 10, 0.5), {0: 0.0, 1: 0.2, 5: 1.0, 9: 1.0, 10: 0.0, 11: 0.2, 25: 1.0}),
        (Cyclical(0.0, 2.0, 4, 1.0), {0: 0.0, 1: 0.5, 3: 1.5, 4: 0.0}),
    ],
    ids=named,
)
def test_schedules_depend_on_the_step_alone(schedule: Schedule, values: dict[int, float]) -> None:
    model, batch = small_vae(Bernoulli()), images(3)
    for step in reversed(values):
        assert schedule(step) == pytest.approx(values[step])
        scheduled = terms(ELBO(schedule), model, batch, step=step)
        torch.testing.assert_close(scheduled.loss, terms(ELBO(values[step]), model, batch).loss)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: IWAE(0), r"objective\.nsamples"),
        (lambda: FreeBits(-0.1), r"objective\.free_nats"),
        (lambda: RAEL2(0.0, float("nan")), r"objective\.decoder_weight"),
        (lambda: Linear(0.0, 1.0, 0), r"schedule\.nsteps"),
        (lambda: Cyclical(0.0, 1.0, 10, 0.0), r"schedule\.rise"),
        (lambda: SigmaVAE(0.0, 0.0), r"likelihood\.speed"),
        (lambda: LogisticMixture(0), r"likelihood\.ncomponents"),
        (lambda: small_vae(Bernoulli(), partial(VAMP, ncomponents=0)), r"prior\.ncomponents"),
    ],
)
def test_settings_are_checked(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()

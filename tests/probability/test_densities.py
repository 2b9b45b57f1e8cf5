"""Laws that every likelihood, prior and distribution obeys."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from vae_lab.probability.discrete import TOP, log_level_probability, nan_unless_binary
from vae_lab.probability.distributions import (
    DiagonalNormal,
    IsotropicNormal,
    MixtureOfDiagonalNormals,
    StandardNormal,
    bounded_log_sigma,
    kl,
)
from vae_lab.probability.likelihoods import (
    Bernoulli,
    Gaussian,
    Likelihood,
    Logistic,
    LogisticMixture,
    SigmaVAE,
)
from vae_lab.probability.priors import Prior, VampPrior
from vae_lab.probability.priors import StandardNormal as StandardNormalPrior
from vae_lab.sampling.latent_samplers import fitted_mixture


def vamp() -> VampPrior:
    """Five components, whose posteriors have the image's first pixels as means."""
    torch.manual_seed(0)
    prior = VampPrior(3, channels=1, image_size=4, ncomponents=5, logit_mean=0.0, logit_std=1.0)
    prior.connect(lambda image: DiagonalNormal(4 * image.flatten(1)[:, :3] - 2, image.flatten(1)[:, 3:6] - 1))
    return prior


DENSITIES = [Gaussian(0.5), Gaussian(0.01), SigmaVAE(-1.0, 10.0)]
PROBABILITIES = [Bernoulli(), Logistic(), LogisticMixture(1), LogisticMixture(4)]
LIKELIHOODS = [*DENSITIES, *PROBABILITIES]
PRIORS = [StandardNormalPrior(3), vamp()]


def outputs(likelihood: Likelihood, *shape: int, reach: float = 4) -> torch.Tensor:
    """A decoder's output for images of `shape`, from -reach to reach."""
    batch, channels, height, width = shape
    numbers = torch.linspace(-reach, reach, batch * channels * likelihood.params_per_channel * height * width)
    return numbers.view(batch, -1, height, width)


def levels(likelihood: Likelihood) -> torch.Tensor:
    """Every value that a pixel can take, as images of one pixel."""
    return torch.arange(likelihood.nlevels).view(-1, 1, 1, 1) / (likelihood.nlevels - 1)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
def test_a_likelihood_is_a_density_over_images(likelihood: Likelihood) -> None:
    output = outputs(likelihood, 2, 3, 4, 4).requires_grad_()
    density = likelihood(output)
    assert (density.batch_shape, density.event_shape) == ((2,), (3, 4, 4))
    assert density.mean.shape == (2, 3, 4, 4)
    assert ((density.mean >= 0) & (density.mean <= 1)).all()
    for image in (torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.rand(2, 3, 4, 4).round()):
        log_prob = density.log_prob(image)
        assert log_prob.shape == (2,)
        assert log_prob.isfinite().all()
    (gradient,) = torch.autograd.grad(density.log_prob(torch.zeros(2, 3, 4, 4)).sum(), output)
    assert gradient.isfinite().all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("likelihood", DENSITIES, ids=repr)
def test_a_density_integrates_to_one(likelihood: Likelihood) -> None:
    density = likelihood(torch.full((1, 1, 1, 1), 0.3))
    values = torch.linspace(-8, 8, 200_001).view(-1, 1, 1, 1)
    assert torch.trapezoid(density.log_prob(values).exp(), values.flatten()).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("reach", [1.0, 5.0, 7.0])
@pytest.mark.parametrize("likelihood", PROBABILITIES, ids=repr)
def test_the_levels_of_a_pixel_sum_to_one(likelihood: Likelihood, reach: float) -> None:
    for output in outputs(likelihood, 1, 1, 4, 4, reach=reach).flatten(2).unbind(2):
        density = likelihood(output[..., None, None])
        probabilities = density.log_prob(levels(likelihood)).double().exp()
        assert probabilities.sum().item() == pytest.approx(1, abs=2e-5)
        mean = (probabilities * levels(likelihood).flatten()).sum().item()
        assert density.mean.item() == pytest.approx(mean, abs=0.5 / TOP)


@pytest.mark.parametrize("likelihood", PROBABILITIES, ids=repr)
def test_levels_are_drawn_as_often_as_is_claimed(likelihood: Likelihood) -> None:
    torch.manual_seed(0)
    density = likelihood(outputs(likelihood, 1, 1, 1, 1, reach=1.5))
    n, values = 100_000, levels(likelihood).flatten()
    samples = density.sample((n,)).flatten()
    assert torch.isin(samples, values).all()
    claimed = density.log_prob(levels(likelihood)).exp()
    drawn = torch.stack([(samples == value).sum() for value in values]) / n
    error = (claimed * (1 - claimed) / n).sqrt()
    assert ((drawn - claimed).abs() < 5 * error + 1e-4).all()


def test_the_stable_logistic_agrees_with_float64_wherever_that_can_tell() -> None:
    level = torch.arange(256.0)[:, None, None]
    location = torch.tensor([-1.0, 0.0, 3.3, 127.5, 128.0, 255.0])[:, None]
    scale = torch.tensor([0.09, 0.5, 2.0, 30.0, 400.0])
    ours = log_level_probability(level, location, scale)
    assert ours.isfinite().all()
    v, m, s = (tensor.double() for tensor in (level, location, scale))
    above = torch.where(v == TOP, 1.0, torch.sigmoid((v + 0.5 - m) / s))
    below = torch.where(v == 0, 0.0, torch.sigmoid((v - 0.5 - m) / s))
    # 1 - sigmoid loses what lies in the upper tail; by symmetry it is the lower tail of the mirrored levels
    mirrored = torch.where(v == 0, 1.0, torch.sigmoid((m - v + 0.5) / s)) - torch.where(
        v == TOP, 0.0, torch.sigmoid((m - v - 0.5) / s)
    )
    reference = torch.where(v < m, above - below, mirrored).log()
    known = reference > -600
    assert known.float().mean() > 0.85
    torch.testing.assert_close(ours.double()[known], reference[known], rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_tails_of_the_logistic_have_a_gradient(scale: float) -> None:
    location = torch.full((256,), 128.0, requires_grad=True)
    log_prob = log_level_probability(torch.arange(256.0), location, torch.tensor(scale))
    (gradient,) = torch.autograd.grad(log_prob.sum(), location)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[129:] > 0).all()
    assert (gradient[:128] < 0).all()


def test_a_logistic_can_be_nearly_sure_of_black_and_still_allow_white() -> None:
    """MNIST's background; with the location kept in [0, 1] it cost 450 nats an image after 300 batches."""
    density = Logistic()(torch.tensor([-3.0, math.log(0.3)]).view(1, 2, 1, 1))
    black, white = (density.log_prob(torch.full((1, 1, 1, 1), value)).item() for value in (0.0, 1.0))
    assert black > math.log(0.95)
    assert white > -8


@pytest.mark.parametrize("grey", [0.5, -1.0, 1e-7])
def test_a_grey_pixel_makes_its_image_nan_where_a_look_would_be_waited_for(grey: float) -> None:
    images = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, grey, 0.0]]).view(2, 1, 2, 2)
    log_prob = Bernoulli()(torch.zeros(2, 1, 2, 2)).log_prob(images.round().clamp(0, 1))
    assert nan_unless_binary(log_prob, images).isnan().tolist() == [False, True]
    far = images.to("meta")  # has no numbers to look at, like a GPU that is busy
    density = Bernoulli()(far)
    assert density.log_prob(far).shape == (2,)
    with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError), match=r"[Mm]eta"):
        density.log_prob(far)


def test_bernoulli_refuses_grey_pixels() -> None:
    density = Bernoulli()(torch.zeros(1, 1, 2, 2))
    assert density.log_prob(torch.ones(1, 1, 2, 2)).item() == pytest.approx(-4 * math.log(2))
    with pytest.raises(ValueError, match=r"0 or 1, not 0\.25; choose data=mnist_binary"):
        density.log_prob(torch.full((1, 1, 2, 2), 0.25))


def test_the_learned_sigma_ends_at_the_mean_squared_error() -> None:
    """Rybkin et al. 2021: the variance of largest likelihood is the mean squared error."""
    torch.manual_seed(0)
    likelihood, output, image = SigmaVAE(0.0, 10.0), torch.randn(8, 1, 5, 5), torch.rand(8, 1, 5, 5)
    optimizer = torch.optim.Adam(likelihood.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        (-likelihood(output).log_prob(image).mean()).backward()
        optimizer.step()
    squared_error = (torch.sigmoid(output) - image).square().mean()
    assert (2 * likelihood.log_sigma).exp().item() == pytest.approx(squared_error.item(), rel=1e-3)
    alone = likelihood(output[:1]).log_prob(image[:1])
    torch.testing.assert_close(alone, likelihood(output).log_prob(image)[:1])


def test_channels_of_a_pixel_have_parameters_of_their_own() -> None:
    for likelihood in (Logistic(), LogisticMixture(2)):
        output = outputs(likelihood, 1, 3, 2, 2, reach=1.0)
        image = torch.rand(1, 3, 2, 2)
        whole = likelihood(output).log_prob(image)
        parts = [likelihood(output[:, channel::3]).log_prob(image[:, channel : channel + 1]) for channel in range(3)]
        torch.testing.assert_close(torch.stack(parts).sum(0), whole)


@pytest.mark.parametrize("likelihood", DENSITIES, ids=repr)
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
    samples = density.sample((20_000,))
    assert samples.shape == (20_000, prior.nlatent)
    assert density.log_prob(samples).shape == (20_000,)
    torch.testing.assert_close(samples.mean(0), density.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(samples.var(0), density.variance, atol=0, rtol=0.05)
    assert density.log_prob(samples[:6].view(2, 3, 3)).shape == (2, 3)
    grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 61)] * 3)
    assert (density.log_prob(grid).exp().sum() * 0.2**3).item() == pytest.approx(1, abs=1e-3)


def test_vamp_prior_is_the_mean_of_posteriors_and_learns_its_images() -> None:
    prior = vamp()
    z = torch.randn(7, 3)
    images = torch.sigmoid(prior.logits)
    each = torch.stack([prior.encode(image[None]).log_prob(z).exp() for image in images])
    torch.testing.assert_close(prior().log_prob(z).exp(), each.mean(0))
    prior().log_prob(z).sum().backward()
    assert prior.logits.grad is not None
    assert (prior.logits.grad[:, 0, 0, :3] != 0).all()
    posterior = DiagonalNormal(z, torch.zeros(7, 3))
    torch.testing.assert_close(kl(posterior, prior(posterior), z), posterior.log_prob(z) - prior().log_prob(z))


def test_a_fitted_mixture_is_a_density_where_the_latents_are() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 1.0]])
    latents = centres.repeat(500, 1) + 0.3 * torch.randn(1000, 2)
    density = fitted_mixture(latents, 2, seed=0)
    samples = density.sample((4000,)).float()
    torch.testing.assert_close(samples.mean(0), latents.mean(0), atol=0.15, rtol=0)
    assert torch.cdist(samples, centres).min(1).values.max() < 2
    grid = torch.cartesian_prod(torch.linspace(-6, 6, 241), torch.linspace(-6, 6, 241))
    assert (density.log_prob(grid).exp().sum() * 0.05**2).item() == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="must be from 1 to 1000"):
        fitted_mixture(latents, 1001, seed=0)


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


@pytest.mark.parametrize("log_sigma", [-6.0, 0.0, 1.0])
def test_the_mixture_of_diagonal_normals_is_torchs(log_sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    loc, log_sigmas, z = (torch.randn(n, 4, generator=generator) for n in (7, 7, 50))
    ours = MixtureOfDiagonalNormals(DiagonalNormal(loc, log_sigmas + log_sigma))
    parts = Independent(Normal(loc.double(), (log_sigmas + log_sigma).double().exp()), 1)
    theirs = MixtureSameFamily(Categorical(torch.ones(7)), parts)
    value = (loc[:1] + z * log_sigmas[:1].exp()).view(5, 10, 4)
    torch.testing.assert_close(ours.log_prob(value).double(), theirs.log_prob(value.double()), rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(ours.variance.double(), theirs.variance, rtol=1e-5, atol=0)

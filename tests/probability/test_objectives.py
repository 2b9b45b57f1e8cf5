"""Bounds against closed forms."""

import math

import pytest
import torch
from linear_gaussian import NLATENT, SIDE, VARIANCE, linear_gaussian_vae, marginal

from vae_lab.data.sample import Sample
from vae_lab.models.vae import VAE
from vae_lab.probability.distributions import DiagonalNormal
from vae_lab.probability.latent_model import Inference
from vae_lab.probability.objectives import ELBO
from vae_lab.training.tasks.task import evaluation_metrics


@pytest.fixture
def linear_gaussian() -> VAE:
    return linear_gaussian_vae()


def test_elbo_with_the_exact_posterior_is_the_log_probability(linear_gaussian: VAE) -> None:
    torch.manual_seed(0)
    flat = marginal(linear_gaussian).sample((8,))
    image = flat.view(8, 1, SIDE, SIDE)
    posterior = linear_gaussian.posterior(image)
    z = posterior.sample((20_000,))
    likelihood = linear_gaussian.generative(z.flatten(0, 1)).log_prob(image.repeat(20_000, 1, 1, 1))
    joint = linear_gaussian.prior().log_prob(z) + likelihood.view(20_000, 8)
    exact = marginal(linear_gaussian).log_prob(flat)
    torch.testing.assert_close(joint - posterior.log_prob(z), exact.expand(20_000, 8), atol=1e-3, rtol=0)
    again = Sample(image.repeat(4000, 1, 1, 1), torch.zeros(32_000, dtype=torch.int64))
    mean = ELBO(1.0)(linear_gaussian, again, 0).loss.view(4000, 8).mean(0)
    torch.testing.assert_close(mean, -exact, atol=0.1, rtol=0)


def test_loss_is_distortion_plus_beta_times_rate(linear_gaussian: VAE) -> None:
    batch = Sample(torch.rand(5, 1, SIDE, SIDE), torch.zeros(5, dtype=torch.int64))
    for beta in (0.0, 1.0, 4.0):
        terms = ELBO(beta)(linear_gaussian, batch, 0)
        torch.testing.assert_close(terms.loss, terms.distortion + beta * terms.rate)
        assert (terms.rate > 0).all()


def test_training_and_evaluation_agree_on_the_same_batch(linear_gaussian: VAE) -> None:
    batch = Sample(torch.rand(5, 1, SIDE, SIDE), torch.zeros(5, dtype=torch.int64))
    torch.manual_seed(3)
    trained = ELBO(4.0)(linear_gaussian, batch, 0)
    torch.manual_seed(3)
    metrics = evaluation_metrics(linear_gaussian(batch.image), batch.image)
    torch.testing.assert_close(metrics["neg_elbo"], trained.distortion + trained.rate)
    squares = 2 * VARIANCE * (trained.distortion - SIDE**2 / 2 * math.log(2 * math.pi * VARIANCE))
    torch.testing.assert_close(metrics["sse_kl"], squares + trained.rate)
    torch.testing.assert_close(metrics["mse"], squares / SIDE**2)


def test_a_batch_of_one_and_a_batch_of_many_agree(linear_gaussian: VAE) -> None:
    image = torch.rand(4, 1, SIDE, SIDE)
    z = torch.randn(4, NLATENT)
    prior, posterior = linear_gaussian.prior(), linear_gaussian.posterior(image)
    together = evaluation_metrics(Inference(posterior, z, linear_gaussian.generative(z), prior), image)
    for i in range(4):
        one = slice(i, i + 1)
        own = DiagonalNormal(posterior.mean[one], posterior.log_sigma[one])
        alone = evaluation_metrics(Inference(own, z[one], linear_gaussian.generative(z[one]), prior), image[one])
        for name, value in alone.items():
            torch.testing.assert_close(value[0], together[name][i])


@pytest.mark.parametrize("beta", [-1.0, float("nan"), float("inf")])
def test_beta_is_checked(beta: float) -> None:
    with pytest.raises(ValueError, match=r"objective\.beta"):
        ELBO(beta)

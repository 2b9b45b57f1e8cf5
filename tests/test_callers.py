"""Functions leave the caller's model, random state and torch settings unchanged."""

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_lab.data.grids import to_uint8
from vae_lab.data.images import ImageSet
from vae_lab.detection.detector import describe_pixels
from vae_lab.detection.scores.anomaly import NegELBO
from vae_lab.detection.scores.regret import LikelihoodRegret
from vae_lab.evaluation.metrics.class_accuracy import class_accuracy
from vae_lab.evaluation.metrics.features import DigitClassifier, features_of, train_classifier
from vae_lab.evaluation.metrics.latents import posterior_statistics
from vae_lab.evaluation.metrics.likelihood import set_likelihood
from vae_lab.evaluation.metrics.memorisation import copy_thresholds, memorisation
from vae_lab.evaluation.metrics.reconstruction import reconstruct_set
from vae_lab.evaluation.metrics.two_sample import frechet_interval
from vae_lab.latents.encoding import encode_images, log_likelihood, reconstruct_images
from vae_lab.latents.interpolation import interpolate_images
from vae_lab.models.vae import VAE
from vae_lab.probability.likelihoods import SigmaVAE
from vae_lab.probability.priors import StandardNormal, VampPrior
from vae_lab.runs.inference import decode_samples
from vae_lab.sampling.images import generate_images
from vae_lab.sampling.latent_samplers import fitted_density

SIZE, NLATENT, NCLASSES = 8, 4, 3
LABELS = torch.arange(24) % NCLASSES


class Body(nn.Module):
    """Somebody's network, which does something else in training than afterwards."""

    def __init__(self, nin: int, nout: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(nin, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.ReLU())
        self.head = nn.Linear(16, nout)
        self.shape = shape

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.body(values)).unflatten(1, self.shape)


def encoder(nin: int, image_size: int, nout: int) -> nn.Module:
    return Body(nin * image_size**2, nout, (nout,))


def decoder(nin: int, image_size: int, nout: int) -> nn.Module:
    return Body(nin, nout * image_size**2, (nout, image_size, image_size))


def vae(nclasses: int = 0, prior: Callable[..., Any] = StandardNormal) -> VAE:
    """A model that is being trained, one part of it frozen."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"encoder": encoder, "decoder": decoder, "likelihood": SigmaVAE(-1.0, 10.0)}
    model = VAE(**parts, prior=prior, nlatent=NLATENT, channels=1, image_size=SIZE, nclasses=nclasses)
    model.decoder.requires_grad_(requires_grad=False).eval()
    return model


def classifier() -> DigitClassifier:
    torch.manual_seed(0)
    return DigitClassifier(1, NCLASSES)


def images(n: int = len(LABELS)) -> Tensor:
    return torch.rand(n, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def decoded() -> ImageSet:
    return ImageSet(to_uint8(images()), LABELS)


def untracked(rows: Any, what: str) -> Any:
    return rows


VAMP = partial(VampPrior, channels=1, image_size=SIZE, ncomponents=3, logit_mean=0.0, logit_std=1.0)
EACH = {"nsamples": 4, "nbound": 2, "nimages": 8, "chunk": 50, "seed": 0, "track": untracked}
CLASSIFIER = {"nbatches": 2, "batch_size": 8, "learning_rate": 1e-2, "seed": 0}
ANYTHING: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], object]]] = {
    "sample": (vae, lambda model: generate_images(model, 3, 0, 2)),
    "sample, conditional": (partial(vae, NCLASSES), lambda model: generate_images(model, 3, 0, 2)),
    "sample, every class": (partial(vae, NCLASSES), lambda model: generate_images(model, 3, 0, 2, which="all")),
    "sample, vamp": (partial(vae, 0, VAMP), lambda model: generate_images(model, 3, 0, 2)),
    "encode": (vae, lambda model: encode_images(model, images())),
    "encode, uint8": (vae, lambda model: encode_images(model, to_uint8(images()))),
    "encode, conditional": (partial(vae, NCLASSES), lambda model: encode_images(model.given(LABELS), images())),
    "reconstruct_images": (vae, lambda model: reconstruct_images(model, images())),
    "log_likelihood": (vae, lambda model: log_likelihood(model, images(), nsamples=3)),
    "interpolate_images": (vae, lambda model: interpolate_images(model, images(2))),
    "interpolate, conditional": (partial(vae, NCLASSES), lambda model: interpolate_images(model, images(2), label=1)),
    "reconstruct": (vae, lambda model: reconstruct_set(model, decoded()).decoded),
    "generate": (vae, lambda model: decode_samples(model, model.prior(), 5, labels=LABELS, name="prior", seed=0)),
    "set_likelihood": (vae, lambda model: set_likelihood(model, decoded(), **EACH).nll),
    "posterior_statistics": (vae, lambda model: posterior_statistics(model, images())),
    "class_accuracy": (
        partial(vae, NCLASSES),
        lambda model: class_accuracy(
            model, train_classifier(decoded(), **CLASSIFIER), decoded(), decoded(), nimages=2, seed=0
        ).each_class,
    ),
    "describe_pixels": (vae, lambda model: describe_pixels(model, NegELBO(2, 0), to_uint8(images()), binary=False)),
    "a regret": (
        vae,
        lambda model: describe_pixels(
            model, LikelihoodRegret(2, 0.1, 2, 0, "32-true"), to_uint8(images()), binary=False
        ),
    ),
    "features_of": (classifier, lambda model: features_of(model, images(), 10)),
    "train_classifier": (vae, lambda _: train_classifier(decoded(), **CLASSIFIER).head.weight),
    "fitted_density": (vae, lambda _: fitted_density(images()[:, 0, 0], 2, 0).mean),
    "memorisation": (
        vae,
        lambda _: memorisation(
            images(5), decoded(), copy_thresholds(decoded(), nreference=10, side=8, seed=0), side=8
        ).share,
    ),
    "frechet_interval": (vae, lambda _: frechet_interval(images(9)[:, 0, 0], images()[:, 0, 0], nreplicates=3, seed=0)),
}  # fmt: skip


def state(model: nn.Module) -> dict[str, Any]:
    """All that a function could change and its caller would not notice."""
    weights = {name: weight.clone() for name, weight in model.state_dict(keep_vars=False).items()}
    return {
        "weights": weights,
        "dtypes": [(weight.dtype, weight.device) for weight in weights.values()],
        "modes": [module.training for module in model.modules()],
        "gradients": [(p.requires_grad, p.grad is None) for p in model.parameters()],
        "random": torch.get_rng_state(),
        "default": (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()),
        "warnings": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in ("", "lightning.pytorch", "vae_lab")},
    }


@pytest.mark.parametrize("name", ANYTHING)
def test_a_function_leaves_its_caller_s_things_alone(name: str) -> None:
    make, call = ANYTHING[name]
    model = make()
    before = state(model)
    call(model)
    after = state(model)
    torch.testing.assert_close(after.pop("weights"), before.pop("weights"), atol=0, rtol=0)
    assert torch.equal(after.pop("random"), before.pop("random"))
    assert after == before


@pytest.mark.parametrize("name", ANYTHING)
def test_a_model_that_is_being_trained_gives_what_it_gives_afterwards(name: str) -> None:
    make, call = ANYTHING[name]
    torch.testing.assert_close(call(make()), call(make().eval()), atol=0, rtol=0, equal_nan=True)


def test_a_function_that_fails_leaves_its_caller_s_things_alone() -> None:
    class FailedError(Exception):
        pass

    class Failing(StandardNormal):
        def forward(self, posterior: object = None) -> Any:
            raise FailedError

    model = vae(prior=Failing)
    before = state(model)
    for call in (lambda: generate_images(model, 2, 0), lambda: reconstruct_set(model, decoded())):
        with pytest.raises(FailedError):
            call()
    assert state(model)["modes"] == before["modes"]
    assert state(model)["dtypes"] == before["dtypes"]
    assert torch.equal(torch.get_rng_state(), before["random"])


WRONG: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "0 to 255": (lambda x: x * 255, r"pixels must lie in \[0, 1\], not .* to 25.*uint8"),
    "-1 to 1": (lambda x: x * 2 - 1, r"pixels must lie in \[0, 1\], .* map those from -1 to 1 by"),
    "whole numbers": (lambda x: (x * 255).long(), "floats in .* or uint8, not torch.int64"),
    "not finite": (lambda x: x.masked_fill(x > 0.5, torch.nan), "pixels are not finite"),
    "five channels": (lambda x: x.expand(-1, 5, -1, -1), r"shape \[24, 5, 8, 8\] fit none of the layouts"),
    "three images or a colour": (lambda x: x[:3, 0], r"shape \[3, 8, 8\] fit the layouts CHW and NHW; .* layout="),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_that_are_none_are_not_encoded(name: str) -> None:
    spoil, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        encode_images(vae(), spoil(images()))


def test_pixels_are_encoded_as_the_floats_that_they_stand_for() -> None:
    model, pixels = vae(), to_uint8(images())
    expected = encode_images(model, pixels.float() / 255)
    torch.testing.assert_close(encode_images(model, pixels), expected, atol=0, rtol=0)
    torch.testing.assert_close(encode_images(model, pixels.double() / 255), expected)

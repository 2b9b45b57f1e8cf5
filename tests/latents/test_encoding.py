"""The functions on pictures: encoding, reconstruction, likelihood and interpolation, with every kind of model."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vae_lab.detection.scores.anomaly import IwaeNLL
from vae_lab.latents.encoding import encode_images, log_likelihood, posteriors_of, reconstruct_images
from vae_lab.latents.interpolation import interpolate_images, latent_path
from vae_lab.models.ladder import Ladder
from vae_lab.models.ladder_mlp import DenseDecoder, DenseEncoder
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.vae import VAE
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.likelihoods import SigmaVAE
from vae_lab.probability.priors import StandardNormal
from vae_lab.runs.load import load_data, load_model

SIDE, NCLASSES = 8, 3
IMAGES = torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % NCLASSES


def vae(nclasses: int = 0) -> VAE:
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        "encoder": partial(MLPEncoder, width=16, nblocks=1),
        "decoder": partial(MLPDecoder, width=16, nblocks=1),
    }
    sizes: dict[str, Any] = {"nlatent": 3, "channels": 1, "image_size": SIDE, "nclasses": nclasses}
    return VAE(**networks, **sizes, likelihood=SigmaVAE(-1.0, 10.0), prior=StandardNormal).eval()


def ladder() -> Ladder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"groups": [2, 3], "width": 16}
    encoder, decoder = partial(DenseEncoder, **sizes), partial(DenseDecoder, **sizes)
    parts: dict[str, Any] = {"encoder": encoder, "decoder": decoder, "likelihood": SigmaVAE(-1.0, 10.0)}
    return Ladder(**parts, prior=StandardNormal, channels=1, image_size=SIDE).eval()


MODELS: dict[str, LatentModel] = {"vae": vae(), "ladder": ladder(), "conditional": vae(NCLASSES).given(LABELS)}


@pytest.mark.parametrize("name", MODELS)
def test_the_functions_are_what_the_model_says(name: str) -> None:
    model = MODELS[name]
    with torch.no_grad():
        means = model.posterior(IMAGES).mean
        decoded = model.generative(means).mean
        found = posteriors_of(model, IMAGES)
        nll = IwaeNLL(nsamples=5, chunk=100, seed=0)(model, IMAGES)
    torch.testing.assert_close(encode_images(model, IMAGES), means)
    torch.testing.assert_close(found.means, means)
    assert found.log_sigmas.shape == means.shape
    torch.testing.assert_close(reconstruct_images(model, IMAGES), decoded)
    torch.testing.assert_close(log_likelihood(model, IMAGES, nsamples=5), -nll)


@pytest.mark.parametrize("name", ["vae", "ladder"])
def test_an_image_s_results_do_not_depend_on_the_others(name: str) -> None:
    model = MODELS[name]
    for function in (encode_images, reconstruct_images, partial(log_likelihood, nsamples=4)):
        apart = torch.cat([function(model, image) for image in IMAGES])
        torch.testing.assert_close(function(model, IMAGES), apart, rtol=1e-5, atol=1e-5)
        assert not function(model, IMAGES.clone().requires_grad_()).requires_grad


GIVEN: dict[str, Any] = {"a list": [0, 1, 2, 0, 1, 2], "a tensor": LABELS, "bytes": LABELS.to(torch.uint8)}


@pytest.mark.parametrize("name", GIVEN)
def test_a_conditional_model_takes_labels(name: str) -> None:
    model, expected = vae(NCLASSES), encode_images(MODELS["conditional"], IMAGES)
    torch.testing.assert_close(encode_images(model, IMAGES, label=GIVEN[name]), expected)
    torch.testing.assert_close(encode_images(model, [IMAGES, LABELS]), expected)
    one = encode_images(model, IMAGES, label=2)
    torch.testing.assert_close(one[2], expected[2])
    assert not one[0].allclose(expected[0])
    torch.testing.assert_close(encode_images(model.given(LABELS), IMAGES, label=2), one)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "no labels": (vae(NCLASSES), None, "conditional on 3 classes; give the class .* label=, a number from 0 to 2"),
    "too few": (vae(NCLASSES), [0, 1], "give one class number, or one for each of the 6 images"),
    "no class": (vae(NCLASSES), 3, "must be from 0 to 2"),
    "fractions": (vae(NCLASSES), 0.5 * LABELS, "give one class number"),
    "of an unconditional model": (vae(), 0, "label=0: the model is unconditional; leave label out"),
    "of a ladder": (ladder(), 0, "label=0: the model is unconditional"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_labels_are_refused(name: str) -> None:
    model, label, message = WRONG[name]
    for function in (encode_images, reconstruct_images, log_likelihood):
        with pytest.raises(ValueError, match=message):
            function(model, IMAGES, label=label)


@pytest.mark.parametrize("path", ["linear", "spherical"])
@pytest.mark.parametrize("name", ["vae", "ladder", "conditional"])
def test_an_interpolation_begins_and_ends_with_reconstructions(name: str, path: str) -> None:
    model: Any = vae(NCLASSES) if name == "conditional" else MODELS[name]
    label = 1 if name == "conditional" else None
    found = interpolate_images(model, IMAGES[:2], n=5, path=path, label=label)
    assert found.shape == (5, 1, SIDE, SIDE)
    torch.testing.assert_close(found[[0, -1]], reconstruct_images(model, IMAGES[:2], label=label), atol=1e-5, rtol=1e-4)


def test_two_pictures_of_one_class_are_interpolated() -> None:
    for images, said in ((IMAGES[:1], "names 1 pictures"), (IMAGES[:3], "names 3 pictures")):
        with pytest.raises(ValueError, match=f"{said}; give two"):
            interpolate_images(vae(), images)
    with pytest.raises(ValueError, match=r"of the classes \[0, 1\]; give one class for both"):
        interpolate_images(vae(NCLASSES), [IMAGES[:2], LABELS[:2]])
    with pytest.raises(ValueError, match="n must be a whole number of at least 2"):
        interpolate_images(vae(), IMAGES[:2], n=1)
    with pytest.raises(ValueError, match="path must be one of spherical, linear, not straight"):
        interpolate_images(vae(), IMAGES[:2], path="straight")


PATHS: dict[str, tuple[Tensor, Tensor]] = {
    "across": (torch.tensor([2.0, 0]), torch.tensor([0.0, 2])),
    "opposite": (torch.tensor([1.0, 0]), torch.tensor([-1.0, 0])),
    "the same": (torch.tensor([1.0, 1]), torch.tensor([1.0, 1])),
    "from nothing": (torch.zeros(2), torch.tensor([0.0, 1])),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_spherical_path_keeps_the_length(name: str) -> None:
    first, last = PATHS[name]
    found, straight = (latent_path(first, last, 5, path) for path in ("spherical", "linear"))
    torch.testing.assert_close(found[[0, -1]], torch.stack([first, last]))
    torch.testing.assert_close(straight, torch.lerp(first, last, torch.linspace(0, 1, 5)[:, None]))
    if name == "across":
        torch.testing.assert_close(found.norm(dim=1), torch.full((5,), 2.0))
        torch.testing.assert_close(found[2], torch.full((2,), 2**0.5))
    else:
        torch.testing.assert_close(found, straight)


def test_the_likelihood_of_a_few_images_calibrates_nothing(blobs_run: Path) -> None:
    model, data = load_model(blobs_run), load_data(blobs_run)
    found = log_likelihood(model, data.splits.test[:16], nsamples=10)
    assert found.shape == (16,)
    assert log_likelihood(model, torch.rand(16, 1, 16, 16), nsamples=10).mean() < found.mean()
    assert not (blobs_run / "calibration").exists()

"""Shapes, gradients and arguments of every network."""

from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import nn

from vae_lab.models.conv import ConvDecoder, ConvEncoder, conv_sizes
from vae_lab.models.vae import VAE
from vae_lab.probability.likelihoods import Gaussian
from vae_lab.probability.priors import StandardNormal

SEED: dict[str, Any] = {"widths": [64, 64, 64], "strides": [2, 2, 1], "kernel": 4, "padding": 2, "slope": 0.01}
DECODER: dict[str, Any] = SEED | {"output_bias": None}
SMALL: dict[str, Any] = SEED | {"widths": [4, 4, 4]}


def test_the_seed_network_is_the_one_described() -> None:
    assert conv_sizes(28, 4, 2, [2, 2, 1]) == [28, 15, 8, 9]
    encoder, decoder = ConvEncoder(1, 28, 16, **SEED), ConvDecoder(8, 28, 1, **DECODER)
    assert encoder.head.in_features == decoder.head.out_features == 5184
    macs = {"encoder": 0, "decoder": 0}

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            macs["encoder"] += module.weight.numel() * output[0, 0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            macs["decoder"] += module.weight.numel() * inputs[0][0, 0].numel()

    for module in [*encoder.modules(), *decoder.modules()]:
        module.register_forward_hook(count)  # pyright: ignore[reportArgumentType]
    encoder(torch.rand(1, 1, 28, 28))
    decoder(torch.rand(1, 8))
    assert macs == {
        "encoder": 64 * 16 * 225 + 64 * 64 * 16 * (64 + 81),
        "decoder": 64 * 64 * 16 * (81 + 64) + 64 * 16 * 225,
    }


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [*range(2, 34), 64, 65, 128, 256])
def test_any_size_comes_back(size: int, channels: int) -> None:
    encoder, decoder = (
        ConvEncoder(channels, size, 6, **SMALL),
        ConvDecoder(3, size, channels, output_bias=-2.0, **SMALL),
    )
    image = torch.rand(2, channels, size, size)
    assert encoder(image).shape == (2, 6)
    assert decoder(torch.rand(2, 3)).shape == image.shape


def test_memory_format_does_not_change_the_numbers() -> None:
    encoder, image = ConvEncoder(3, 20, 6, **SMALL), torch.rand(2, 3, 20, 20)
    expected = encoder(image)
    encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(encoder(image.to(memory_format=torch.channels_last)), expected)


def vae(nlatent: Any, channels: int, image_size: int) -> VAE:
    return VAE(
        encoder=partial(ConvEncoder, **SMALL),
        decoder=partial(ConvDecoder, output_bias=None, **SMALL),
        likelihood=Gaussian(0.5),
        prior=StandardNormal,
        nlatent=nlatent,
        channels=channels,
        image_size=image_size,
    )


@pytest.mark.parametrize("size", [28, 64])
def test_every_parameter_receives_a_gradient(size: int) -> None:
    torch.manual_seed(0)
    model, image = vae(3, 3, size), torch.rand(4, 3, size, size)
    inference = model(image)
    (inference.generative.log_prob(image).mean() + inference.posterior.mean.mean()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_the_last_bias_starts_where_it_is_told() -> None:
    decoder = ConvDecoder(3, 28, 1, output_bias=-2.0, **SMALL)
    assert decoder(torch.zeros(1, 3)).mean().item() == pytest.approx(-2, abs=0.3)


@pytest.mark.parametrize("size", [0, -3])
def test_an_image_too_small_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"data\.image_size"):
        conv_sizes(size, 4, 2, [2, 2, 1])


WRONG = [{"widths": [4, 4]}, {"strides": [2, 2, 0]}, {"widths": [], "strides": []}, {"kernel": 0}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_stack_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="widths"):
        ConvEncoder(1, 28, 6, **cast("dict[str, Any]", SMALL | wrong))


@pytest.mark.parametrize("nlatent", [0, -1, 1.5, "x", None])
def test_nlatent_is_checked(nlatent: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        vae(nlatent, 1, 28)

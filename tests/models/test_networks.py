"""Shapes, gradients and arguments of every network."""

from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vae_lab.models.conv import ConvDecoder, ConvEncoder, conv_sizes
from vae_lab.models.conv_transpose import TransposedConv2d
from vae_lab.models.mlp import MLPDecoder, MLPEncoder
from vae_lab.models.resnet import ResDecoder, ResEncoder, halvings
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


RES: dict[str, Any] = {"widths": [8, 16], "groups": 4, "smallest": 4, "spatial": False}
PATCHES: dict[str, Any] = RES | {"patch": 4, "coarse": True}
PAIRS = {
    "conv": (partial(ConvEncoder, **SMALL), partial(ConvDecoder, output_bias=-2.0, **SMALL), [*range(2, 34), 65, 256]),
    "mlp": (partial(MLPEncoder, width=5, nblocks=2), partial(MLPDecoder, width=5, nblocks=2), [1, 2, 7, 28, 64]),
    "resnet": (partial(ResEncoder, **RES), partial(ResDecoder, **RES), [8, 10, 12, 28, 32, 64, 128, 256]),
    "patches": (partial(ResEncoder, **PATCHES), partial(ResDecoder, **PATCHES), [32, 40, 48, 64, 96, 256]),
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("pair", "size"), [(name, size) for name, (_, _, sizes) in PAIRS.items() for size in sizes])
def test_any_size_comes_back(pair: str, size: int, channels: int) -> None:
    encoder, decoder = PAIRS[pair][0](channels, size, 6), PAIRS[pair][1](3, size, channels)
    image = torch.rand(2, channels, size, size)
    assert encoder(image).shape == (2, 6)
    assert decoder(torch.rand(2, 3)).shape == image.shape


@pytest.mark.parametrize(("size", "depth"), [(7, 0), (8, 1), (28, 2), (32, 3), (64, 4), (256, 6)])
def test_the_residual_network_halves_down_to_a_few_pixels(size: int, depth: int) -> None:
    assert halvings(size, 4) == depth


@pytest.mark.parametrize("size", [7, 9, 6])
def test_a_size_that_cannot_be_halved_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"data.image_size={size}"):
        ResEncoder(1, size, 6, **RES)


@pytest.mark.parametrize("size", [16, 28, 33, 36])
def test_a_size_that_patches_do_not_fill_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"data.image_size={size} .* choose a multiple of 8 of at least 32"):
        ResDecoder(3, size, 3, **PATCHES)


def test_patches_and_coarse_blocks_do_a_tenth_of_the_arithmetic() -> None:
    macs = {}
    for name, settings in {"res": RES, "patches": PATCHES}.items():
        with FlopCounterMode(display=False) as counter:
            ResDecoder(3, 64, 3, **settings)(torch.rand(1, 3))
        macs[name] = counter.get_total_flops() // 2
    assert macs["patches"] < macs["res"] / 10


@pytest.mark.parametrize("size", [8, 28, 64])
def test_spatial_latents_see_their_part_of_the_image_and_draw_it(size: int) -> None:
    torch.manual_seed(0)
    side = size // 2 ** halvings(size, 4)
    settings: dict[str, Any] = RES | {"spatial": True}
    encoder, decoder = ResEncoder(3, size, 2 * 5 * side**2, **settings), ResDecoder(5 * side**2, size, 3, **settings)
    image = torch.rand(2, 3, size, size)
    mean = encoder(image).chunk(2, 1)[0].view(2, 5, side, side)
    z = mean.flatten(1).detach().requires_grad_()
    assert decoder(z).shape == image.shape
    if size == 64:  # at smaller sizes the blocks reach from corner to corner
        decoder(z)[:, :, 0, 0].sum().backward()
        assert z.grad is not None
        reach = z.grad.view(2, 5, side, side).abs().sum((0, 1))
        assert reach[0, 0] > 2 * reach[-1, -1]
    with pytest.raises(ValueError, match=f"choose a multiple of {side**2}"):
        ResDecoder(5 * side**2 + 1, size, 3, **settings)


def test_parameters_of_the_residual_network_grow_with_the_logarithm_of_the_size() -> None:
    settings: dict[str, Any] = RES | {"widths": [8]}
    counts = [sum(p.numel() for p in ResDecoder(3, size, 1, **settings).parameters()) for size in (16, 32, 64, 128)]
    steps = [b - a for a, b in pairwise(counts)]
    assert len(set(steps)) == 1


def test_memory_format_does_not_change_the_numbers() -> None:
    encoder, image = ConvEncoder(3, 20, 6, **SMALL), torch.rand(2, 3, 20, 20)
    expected = encoder(image)
    encoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(encoder(image.to(memory_format=torch.channels_last)), expected)


def vae(nlatent: Any, channels: int, image_size: int, pair: str = "conv") -> VAE:
    encoder, decoder, _ = PAIRS[pair]
    return VAE(
        encoder=encoder,
        decoder=decoder,
        likelihood=Gaussian(0.5),
        prior=StandardNormal,
        nlatent=nlatent,
        channels=channels,
        image_size=image_size,
    )


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [32, 64])
def test_every_parameter_receives_a_gradient(size: int, pair: str) -> None:
    torch.manual_seed(0)
    model, image = vae(3, 3, size, pair), torch.rand(4, 3, size, size)
    inference = model(image)
    (inference.generative.log_prob(image).mean() + inference.posterior.mean.mean()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


@pytest.mark.parametrize(("stride", "missing"), [(1, 0), (2, 0), (2, 1)])
def test_a_bias_added_apart_changes_nothing(stride: int, missing: int) -> None:
    ours, theirs = TransposedConv2d(3, 5, 4, stride, 2, missing), nn.ConvTranspose2d(3, 5, 4, stride, 2, missing)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 7, 7)
    weight = torch.randn_like(theirs(x))
    results = []
    for layer in (ours, theirs):
        y = layer(x)
        results.append([y, *torch.autograd.grad((y * weight).sum(), list(layer.parameters()))])
    torch.testing.assert_close(*results)


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

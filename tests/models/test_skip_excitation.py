"""The decoder with skip-layer excitation: sizes, what excites what, noise, and growth from half the size."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from omegaconf import DictConfig
from torch import Tensor

from vae_lab.models.skip_excitation import Pooling, SkipExcitationDecoder, UpBlock, gated
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]
WIDTHS = [16, 12, 8, 8, 4, 4, 4]


def decoder(image_size: int, *, noise: bool = False, nin: int = 6) -> SkipExcitationDecoder:
    torch.manual_seed(0)
    return SkipExcitationDecoder(nin, image_size, 3, widths=WIDTHS, noise=noise)


@pytest.mark.parametrize("image_size", [16, 32, 64, 128, 256])
def test_sizes(image_size: int) -> None:
    network = decoder(image_size)
    assert network(torch.randn(2, 6)).shape == (2, 3, image_size, image_size)
    assert len(network.excitations) == {16: 0, 32: 1, 64: 2, 128: 3, 256: 4}[image_size]


@pytest.mark.parametrize("image_size", [4, 8, 28, 48, 100])
def test_a_size_that_is_no_doubling_of_4_is_refused(image_size: int) -> None:
    with pytest.raises(ValueError, match=f"data.image_size={image_size}: .* choose 16, 32"):
        decoder(image_size)


def test_every_weight_trains_and_the_length_of_a_latent_has_no_effect() -> None:
    network = decoder(64, noise=True)
    z = torch.randn(4, 6)
    network(z).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())
    network.eval()
    torch.testing.assert_close(network(z), network(3 * z))


def test_noise_is_added_in_training_only() -> None:
    network = decoder(32, noise=True)
    for block in network.blocks:
        torch.nn.init.ones_(block.noise_scale)  # pyright: ignore[reportArgumentType]
    z = torch.randn(4, 6)
    assert not network(z).equal(network(z))
    network.eval()
    assert network(z).equal(network(z))


def test_an_excitation_scales_the_channels_of_the_map_three_doublings_above() -> None:
    network = decoder(32).eval()
    z = torch.randn(1, 6)
    before = network(z)
    last = network.excitations[0].get_submodule("layers.3")
    torch.nn.init.zeros_(last.get_parameter("weight"))
    torch.nn.init.constant_(last.get_parameter("bias"), -100.0)
    silent = network(z)
    assert not silent.equal(before)
    torch.testing.assert_close(silent, network.output.bias[:, None, None].expand_as(silent[0])[None])  # pyright: ignore


def test_places_of_an_excitation_are_means() -> None:
    maps = torch.rand(2, 3, 16, 16)
    assert torch.allclose(Pooling()(maps), torch.nn.AdaptiveAvgPool2d(4)(maps), atol=1e-6)


def test_a_block_doubles_every_pixel_and_convolves() -> None:
    block = UpBlock(5, 4, noise=False).eval()
    x = torch.randn(2, 5, 6, 7)
    seen: list[Tensor] = []
    block.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    block(x)
    assert torch.allclose(seen[0], block.convolution(F.interpolate(x, scale_factor=2.0)), atol=1e-5)


def test_the_gate_equals_torch_s() -> None:
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(gated(x), torch.nn.functional.glu(x, 1))


def test_a_run_of_twice_the_size_starts_from_the_weights_of_the_smaller_one(config: Compose, tmp_path: Path) -> None:
    small = ("model=fastgan", "model.encoder.widths=[8,8]", "model.decoder.widths=[8,8,8,8,4,6]", "trainer.max_steps=2")
    train_run(config(*small, "data.image_size=64", "model.encoder.patch=4", folder="small"))
    init = ("data.image_size=128", "model.encoder.patch=8", f"init={tmp_path / 'small'}")
    summary = train_run(config(*small, *init, folder="large"))
    fresh = summary["init"]["fresh"]  # pyright: ignore[reportIndexIssue]
    assert {name.removeprefix("model.").rpartition(".")[0] for name in fresh} == {
        "encoder.features.1",  # the convolution of patches
        "decoder.blocks.4.convolution",
        "decoder.blocks.4.norm",
        "decoder.excitations.2.layers.1",
        "decoder.excitations.2.layers.3",
        "decoder.output",
    }

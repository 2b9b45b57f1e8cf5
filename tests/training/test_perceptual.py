"""LPIPS as a loss: on random weights in the place of torchvision's, which a test cannot fetch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from test_vaegan import VAEGAN, WARM, played
from torchvision.models import squeezenet1_1

from vae_lab.errors import DataError
from vae_lab.training.tasks.perceptual import LPIPS, backbone_weights

Compose = Callable[..., DictConfig]
SQUEEZE = ("task/perceptual=lpips", "task.perceptual.backbone=squeeze")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with random weights where torchvision looks for its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = backbone_weights("squeeze")
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(squeezenet1_1().state_dict(), file)
    return file


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_pulls_every_part_of_the_decoder(config: Compose, weights: Path, channels: int) -> None:
    size = ("data.image_size=64", f"data.channels={channels}")
    task, batch, _ = played(config, *VAEGAN, *SQUEEZE, *size, "data.nimages=16", "data.batch_size=4")
    terms, shown = task.forward_batch(batch._replace(image=batch.image[:4], label=batch.label[:4]), WARM)
    losses = task.model_losses(
        terms, shown, {name: adversary(shown, 0) for name, adversary in task.adversaries.items()}
    )
    gradients = torch.autograd.grad(losses.perceptual, list(task.learner.decoder.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not [name for name in task.state_dict() if name.startswith("perceptual")]


def test_lpips_is_0_for_like_images_and_of_single_precision_always(weights: Path) -> None:
    distance = LPIPS(weight=10.0, backbone="squeeze", image_size=64)
    torch.manual_seed(0)
    image, other = torch.rand(2, 3, 1, 64, 64)
    assert distance(image, image).abs().max() < 1e-6
    found = distance(image, other)
    assert found.shape == (3,)
    assert found.min() > 0
    with torch.autocast("cpu", torch.bfloat16):
        again = distance(image, other)
        half = distance(image.bfloat16(), other.bfloat16())
    assert again.dtype == half.dtype == torch.float32
    torch.testing.assert_close(again, found)
    torch.testing.assert_close(LPIPS(weight=5.0, backbone="squeeze", image_size=64)(image, other), found / 2)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_the_weight_of_lpips_is_checked(weights: Path, weight: float) -> None:
    with pytest.raises(ValueError, match=r"task\.perceptual\.weight must be"):
        LPIPS(weight=weight, backbone="squeeze", image_size=64)


def test_images_too_small_for_lpips_are_told_at_construction(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"backbone=squeeze cannot process data\.image_size=4; choose larger"):
        LPIPS(weight=1.0, backbone="squeeze", image_size=4)


@pytest.mark.parametrize("damage", ["noise", "cut", "other weights"])
def test_a_damaged_weights_file_is_named(weights: Path, damage: str) -> None:
    whole = weights.read_bytes()
    weights.write_bytes({"noise": b"no weights", "cut": whole[: len(whole) // 2], "other weights": whole}[damage])
    if damage == "other weights":
        torch.save({"weight": torch.zeros(3)}, weights)
    with pytest.raises(DataError, match=rf"{weights.name} does not hold torchvision's weights; delete it"):
        LPIPS(weight=1.0, backbone="squeeze", image_size=64)

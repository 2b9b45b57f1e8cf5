"""Losses, augmentation, networks and guard of adversarial training, each against what it must be."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_lab.adversarial.adaptive_weight import adaptive_weight
from vae_lab.adversarial.collapse_guard import WATCHED, BalanceGuard
from vae_lab.adversarial.diffaugment import DiffAugment
from vae_lab.adversarial.losses import (
    MeanMatching,
    discriminator_loss,
    feature_distance,
    gradient_penalty,
    nonsaturating_loss,
)
from vae_lab.models.discriminator import ConvDiscriminator


def discriminator(size: int = 28, nout: int = 1, **settings: object) -> ConvDiscriminator:
    shape = {"widths": [8, 16, 24], "strides": [2, 2, 2], "kernel": 4, "padding": 1, "slope": 0.2, "layer": 2}
    return ConvDiscriminator(3, size, nout, **shape | {"patches": False, "spectral": False} | settings)  # pyright: ignore[reportArgumentType]


def neutral(**settings: Any) -> dict[str, Any]:
    """Settings of an augmentation that does nothing but what is named."""
    return {"colour": 0.0, "translation": 0.0, "cutout": 0.0, "flip": False} | settings


def test_the_saturating_side_keeps_its_gradient_where_every_fake_is_found_out() -> None:
    fake = torch.full((4, 1), -20.0, requires_grad=True)
    nonsaturating_loss(fake).backward()
    assert fake.grad is not None
    assert fake.grad.sum().item() == pytest.approx(-1, abs=1e-6)
    real = torch.full((4, 1), 20.0)
    assert discriminator_loss(real, fake.detach()) < 1e-6
    assert discriminator_loss(fake.detach(), real).item() == pytest.approx(40, abs=1e-3)


def test_the_gradient_penalty_of_a_linear_discriminator_is_half_its_squared_weights() -> None:
    linear = nn.Linear(3 * 4 * 4, 1)
    image = torch.rand(5, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(lambda x: linear(x.flatten(1)), image)
    torch.testing.assert_close(penalty, linear.weight.square().sum() / 2)
    (gradient,) = torch.autograd.grad(penalty, linear.weight)
    torch.testing.assert_close(gradient, linear.weight)


def test_features_lie_as_far_apart_as_their_difference_is_long() -> None:
    ours, theirs = torch.randn(2, 6, 2, 3, 3)
    torch.testing.assert_close(feature_distance(ours, theirs), (ours - theirs).flatten(1).norm(dim=1) ** 2 / 2)


def test_means_are_matched_class_by_class() -> None:
    real, fake, label = torch.randn(6, 4), torch.randn(6, 4, requires_grad=True), torch.tensor([0, 0, 1, 1, 1, 1])
    matching = MeanMatching(3, 4, decay=0.0)
    distances = [(real[label == c].mean(0) - fake[label == c].mean(0)).square().sum() / 2 for c in (0, 1)]
    expected = torch.stack(distances).sum()
    distance = matching(real, fake, label)
    torch.testing.assert_close(distance, expected)
    ours, theirs = (torch.autograd.grad(loss, fake, retain_graph=True)[0] for loss in (distance, expected))
    torch.testing.assert_close(ours, theirs)
    assert matching(real, real, label) < 1e-12


def test_moving_means_forget_and_start_as_means() -> None:
    matching = MeanMatching(2, 1, decay=0.5)
    first = torch.zeros(2, dtype=torch.int64)
    matching(torch.full((2, 1), 3.0), torch.full((2, 1), 1.0), first)
    assert (matching.real[0, 0], matching.fake[0, 0], matching.real[1, 0]) == (3, 1, 0)
    matching(torch.full((2, 1), 6.0), torch.full((2, 1), 1.0), first)
    torch.testing.assert_close(matching.real[0, 0], torch.tensor(5.0))  # (0.5 * 3 + 6) / (0.5 + 1)
    fake = torch.full((2, 1), 1.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(matching(torch.full((2, 1), 5.0), fake, first), fake)
    torch.testing.assert_close(gradient, torch.full((2, 1), (1.0 - 5.0) / 2))  # that of the batch's mean


def test_an_augmentation_of_strength_0_changes_nothing() -> None:
    image = torch.rand(4, 3, 12, 12)
    torch.testing.assert_close(DiffAugment(**neutral()).draw(image)(image), image)


@pytest.mark.parametrize("part", [{"colour": 1.0}, {"translation": 0.25}, {"cutout": 0.5}, {"flip": True}], ids=str)
def test_every_part_of_an_augmentation_acts_and_passes_gradients(part: dict[str, Any]) -> None:
    image = torch.rand(8, 3, 12, 12, requires_grad=True)
    torch.manual_seed(0)
    draw = DiffAugment(**neutral(**part)).draw(image)
    augmented = draw(image)
    assert not torch.allclose(augmented, image)
    torch.testing.assert_close(draw(image), augmented, msg="one draw is one function")
    torch.manual_seed(0)
    torch.testing.assert_close(DiffAugment(**neutral(**part)).draw(image)(image), augmented)
    augmented.sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_translation_moves_whole_pixels_and_cutout_blackens_a_square() -> None:
    image = torch.rand(64, 1, 8, 8) + 1
    moved = DiffAugment(**neutral(translation=0.25))
    draw = moved.draw(image)
    down, along = (int(shift) for shift in draw.shift[0])
    expected = torch.zeros(8, 8)
    inside = [slice(max(0, s), 8 + min(0, s)) for s in (down, along)]
    source = [slice(max(0, -s), 8 + min(0, -s)) for s in (down, along)]
    expected[inside[0], inside[1]] = image[0, 0, source[0], source[1]]
    torch.testing.assert_close(draw(image)[0, 0], expected)
    assert draw.shift.abs().max() == 2
    black = (DiffAugment(**neutral(cutout=0.5)).draw(image)(image) == 0).flatten(1).sum(1)
    assert black.max() == 16
    assert black.min() >= 1


@pytest.mark.parametrize("adversarial_ratio", [-0.1, 1.1, float("nan")])
def test_the_strength_of_an_augmentation_is_checked(adversarial_ratio: float) -> None:
    with pytest.raises(ValueError, match=r"augment\.cutout"):
        DiffAugment(**neutral(cutout=adversarial_ratio))


@pytest.mark.parametrize("size", [16, 28, 64])
@pytest.mark.parametrize("patches", [False, True])
def test_a_discriminator_judges_images_of_any_size_with_every_weight(size: int, *, patches: bool) -> None:
    network = discriminator(size, patches=patches)
    judged = network(torch.rand(4, 3, size, size))
    assert judged.logits.shape == (4, (size // 8) ** 2 if patches else 1)
    assert judged.features.shape == (4, 16, size // 4, size // 4)
    assert judged.embedding.shape[0] == 4
    judged.logits.sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in network.parameters())
    halves = judged.split(2)
    torch.testing.assert_close(halves[1].logits, judged.logits[2:])


def test_spectral_norm_bounds_the_discriminator() -> None:
    torch.manual_seed(0)
    network = discriminator(16, spectral=True)
    for weight in network.parameters():
        weight.data *= 10
    image = torch.rand(4, 3, 16, 16)
    for _ in range(20):
        network(image)
    assert torch.linalg.matrix_norm(network.head.weight, 2).item() == pytest.approx(1, abs=0.01)  # pyright: ignore[reportArgumentType]


def test_the_layer_of_a_discriminator_is_checked() -> None:
    with pytest.raises(ValueError, match="layer=4"):
        discriminator(layer=4)


def guard(patience: int = 1) -> BalanceGuard:
    return BalanceGuard(every=10, sure=0.99, blind=0.02, worst=5.0, spread=0.2, factor=0.5, patience=patience, most=5)


def observed(watch: BalanceGuard, **numbers: float) -> BalanceGuard:
    healthy = {"accuracy_real": 0.8, "accuracy_fake": 0.7, "cross_entropy": 1.0, "spread": 0.9, "loss": 1.0}
    for _ in range(watch.every):
        watch.observe(**{name: torch.tensor(value) for name, value in (healthy | numbers).items()})
    return watch


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({}, None),
        ({"accuracy_real": 1.0}, None),
        ({"accuracy_real": 1.0, "accuracy_fake": 1.0}, "always right"),
        ({"accuracy_real": 1.0, "accuracy_fake": 0.0}, "gives the same answer for all"),
        ({"accuracy_real": 0.0}, "gives the same answer for all"),
        ({"cross_entropy": 50.0}, "worse than chance"),
        ({"spread": 0.1}, "samples are nearly identical"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": float("inf")}, "loss is"),
    ],
    ids=str,
)
def test_the_guard_names_what_has_collapsed(numbers: dict[str, float], complaint: str | None) -> None:
    said = observed(guard(), **numbers).look()
    assert said is None if complaint is None else complaint in str(said)


def test_one_bad_batch_is_no_collapse_and_a_good_past_hides_none() -> None:
    watch = observed(guard())
    for _ in range(2):
        watch.observe(**{name: torch.tensor(0.0) for name in WATCHED})
    assert watch.look() is None
    for _ in range(4):
        observed(watch, accuracy_real=1.0, accuracy_fake=1.0)
    assert "always right" in str(watch.look())


def test_the_guard_waits_twice_as_long_after_each_collapse() -> None:
    watch, looks = guard(), []
    for look in range(16):
        if observed(watch, spread=0.0).look() is not None:
            looks.append(look)
            watch.lower()
    assert looks == [0, 2, 6, 14]
    assert (watch.scale.item(), watch.ncollapses.item()) == (1 / 16, 4)


def test_what_was_never_good_has_time_to_become_so() -> None:
    watch = guard(patience=3)
    assert [observed(watch, spread=0.0).look() is None for _ in range(4)] == [True, True, False, False]
    watch = guard(patience=3)
    assert observed(watch).look() is None
    assert "nearly identical" in str(observed(observed(watch, spread=0.0), spread=0.0).look())


def test_a_loss_that_is_no_number_is_told_at_once() -> None:
    watch = observed(guard())
    watch.lower()
    assert watch.lost() is None
    watch.observe(**dict.fromkeys(WATCHED, torch.tensor(float("nan"))))
    assert watch.lost() == watch.look() == "the loss is nan"


@pytest.mark.parametrize("setting", [{"sure": 1.5}, {"factor": -0.5}, {"every": 0}, {"patience": 0}], ids=str)
def test_the_settings_of_a_guard_are_checked(setting: dict[str, float]) -> None:
    good: dict[str, float] = {"every": 10, "sure": 0.99, "blind": 0.02, "worst": 5.0, "spread": 0.2, "factor": 0.5}
    good |= {"patience": 1, "most": 5}
    with pytest.raises(ValueError, match=rf"task\.guard\.{next(iter(setting))}"):
        BalanceGuard(**good | setting)  # pyright: ignore[reportArgumentType]


def test_embeddings_of_patches_are_means_over_places() -> None:
    image = torch.rand(2, 3, 16, 16)
    wide: Tensor = discriminator(16, patches=True)(image).embedding
    assert wide.shape == (2, 24)


@pytest.mark.parametrize(("reference", "expected"), [(6.0, 2.0), (600.0, 5.0), (0.0, 0.5)])
def test_the_adaptive_weight_is_a_ratio_of_norms_within_its_bounds(reference: float, expected: float) -> None:
    gradients = [torch.tensor([reference, 0.0]), None], [torch.tensor([0.0, 0.6]), torch.tensor([1.2])]
    norm = math.hypot(0.6, 1.2)
    found = adaptive_weight(*gradients, ratio=norm / 3, bounds=(0.5, 5.0))
    assert found.item() == pytest.approx(expected, rel=1e-6)

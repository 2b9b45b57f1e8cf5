"""The discriminator on pretrained features: what trains, what is frozen, classes, blur, and the hinge loss."""

from typing import Any

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from vae_lab.adversarial.adversaries import AdversarialBatch
from vae_lab.adversarial.diffaugment import DiffAugment
from vae_lab.adversarial.losses import hinge_loss
from vae_lab.adversarial.projected import ProjectedDiscriminator, RandomMixing, blur

LABELS = torch.tensor([0, 1, 1])


def discriminator(**settings: Any) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    given: dict[str, Any] = {"network": "lite0", "channels": 3, "nclasses": 0, "widths": [8, 8, 8, 8]}
    given |= {"reconstructions": False, "blur": 0.0, "blur_images": 1000, "augment": None}
    return ProjectedDiscriminator(**given | settings)


def batch() -> AdversarialBatch:
    generator = torch.Generator().manual_seed(1)
    image, reconstruction, sample = torch.rand(3, 3, 3, 32, 32, generator=generator)
    return AdversarialBatch(image, reconstruction.requires_grad_(), sample.requires_grad_(), LABELS)


def test_the_hinge_loss_is_0_beyond_the_margins() -> None:
    one, none = torch.ones(2, 1), torch.zeros(2, 1)
    assert hinge_loss(one, -one) == 0
    assert hinge_loss(none, none) == 2
    assert hinge_loss(-one, one) == 4


def test_the_heads_train_and_everything_before_them_is_frozen() -> None:
    adversary, images = discriminator(), batch()
    losses = adversary(images, step=0)
    losses.loss.backward(retain_graph=True)
    trained = {name.partition(".")[0] for name, weight in adversary.named_parameters() if weight.grad is not None}
    assert trained == {"heads"}
    assert not [name for name in adversary.state_dict() if name.startswith("pyramid")]
    assert [name for name in adversary.state_dict() if name.startswith("mixing")], "a resumed run needs the same mixing"
    (gradient,) = torch.autograd.grad(losses.generator_loss, [images.sample])
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    assert losses.feature_matching.shape == (3,)


@pytest.mark.parametrize("reconstructions", [False, True])
def test_reconstructions_count_as_generated_only_if_asked(reconstructions: bool) -> None:
    images = batch()
    losses = discriminator(reconstructions=reconstructions)(images, step=0)
    (gradient,) = torch.autograd.grad(losses.generator_loss, [images.reconstruction], allow_unused=True)
    assert (gradient is not None) is reconstructions


def test_samples_that_stand_for_reconstructions_too_are_judged_once() -> None:
    images, seen = batch(), list[int]()
    adversary = discriminator(reconstructions=True)
    adversary.pyramid.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    adversary(images, step=0)
    adversary(images._replace(reconstruction=images.sample), step=0)
    assert seen == [3, 6, 3, 3], "real and generated images of each call"


def test_a_conditional_judgement_depends_on_the_class() -> None:
    adversary, images = discriminator(nclasses=2).eval(), batch()
    found = [adversary(images._replace(label=labels), step=0).generator_loss for labels in (LABELS, 1 - LABELS)]
    assert found[0] != found[1]
    plain = discriminator().eval()  # in training, spectral normalization changes at each call
    found = [plain(images._replace(label=labels), step=0).generator_loss for labels in (LABELS, 1 - LABELS)]
    assert found[0] == found[1]


def test_the_blur_fades_with_the_images_seen() -> None:
    adversary = discriminator(blur=3.0, blur_images=300)
    image = batch().image
    roughness = [adversary.prepared(image, step).diff(dim=3).abs().mean().item() for step in (0, 50, 100, 1000)]
    assert roughness == sorted(roughness)
    assert roughness[0] < roughness[1] < roughness[2]
    assert adversary.prepared(image, 100).equal(image), "100 batches of 3 images"


@pytest.mark.parametrize("sigma", [0.1, 0.2, 1.3, 2.0])
def test_the_blur_equals_torchvision_s(sigma: float) -> None:
    image, size = torch.rand(2, 3, 32, 24), 2 * round(3 * sigma) + 1
    assert torch.allclose(blur(image, sigma), gaussian_blur(image, [size, size], [sigma, sigma]), atol=1e-5)


def test_augmentations_differ_between_images_and_let_gradients_through() -> None:
    augment = DiffAugment(colour=1.0, translation=0.125, cutout=0.5, flip=False)
    adversary = discriminator(augment=augment)
    image = torch.full((4, 3, 32, 32), 0.5, requires_grad=True)
    seen = adversary.prepared(image, 10**6)
    assert len({round(one.mean().item(), 4) for one in seen}) == 4
    (gradient,) = torch.autograd.grad(seen.sum(), [image])
    assert gradient.abs().sum() > 0


def test_mixed_maps_depend_on_all_smaller_maps() -> None:
    torch.manual_seed(0)
    mixing = RandomMixing([3, 4, 5], [6, 7, 8])
    maps = [torch.rand(1, width, 16 // 2**i, 16 // 2**i, requires_grad=True) for i, width in enumerate((3, 4, 5))]
    mixed = mixing(maps)
    assert [one.shape[1:] for one in mixed] == [(6, 16, 16), (7, 8, 8), (8, 4, 4)]
    for i, one in enumerate(mixed):
        gradients = torch.autograd.grad(one.sum(), maps, retain_graph=True, allow_unused=True)
        reached = [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]
        assert reached == [j >= i for j in range(3)]

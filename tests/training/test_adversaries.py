"""What adversaries see and say, and what of it the model minimises, each worked out by hand with a network that is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from omegaconf import DictConfig
from test_vaegan import CVAEGAN, VAEGAN, WARM, played
from torch import Tensor, nn

from vae_lab.adversarial.adversaries import AdversarialBatch, Classifier, Discriminator
from vae_lab.adversarial.diffaugment import DiffAugment
from vae_lab.models.discriminator import Judgement
from vae_lab.training.tasks.perceptual import Perceptual
from vae_lab.training.tasks.vaegan import VAEGANTask

Compose = Callable[..., DictConfig]
CHANNELS, SIZE = 3, 8


class Linear(nn.Module):
    """A linear judge, which remembers what it was shown first after `seen` was emptied."""

    def __init__(self, nin: int, image_size: int, nout: int) -> None:
        super().__init__()
        self.head = nn.Linear(nin * image_size**2, nout)
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Judgement:
        self.seen.append(image)
        return Judgement(self.head(image.flatten(1)), image, image.flatten(1))


def discriminator(**settings: Any) -> Discriminator:
    torch.manual_seed(0)
    weights = {
        "feature_matching": 1.0,
        "nonsaturating": 1.0,
        "mean_matching": 0.0,
        "mean_decay": 0.0,
        "r1": 0.0,
        "r1_every": 1,
    }
    shape = {"network": Linear, "channels": CHANNELS, "image_size": SIZE, "augment": None}
    made = Discriminator(**shape | weights | settings)  # pyright: ignore[reportArgumentType]
    made.network.seen.clear()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return made


def classifier(nclasses: int, **settings: float) -> Classifier:
    torch.manual_seed(0)
    weights = {"feature_matching": 1.0, "mean_matching": 0.0, "cross_entropy": 0.0, "mean_decay": 0.0}
    return Classifier(
        network=Linear, channels=CHANNELS, image_size=SIZE, nclasses=nclasses, **weights | settings
    )  # fmt: skip


def shown(label: list[int]) -> AdversarialBatch:
    """Random images; the made ones take a gradient."""
    torch.manual_seed(1)
    image, reconstruction, sample = torch.rand(3, len(label), CHANNELS, SIZE, SIZE)
    return AdversarialBatch(image, reconstruction.requires_grad_(), sample.requires_grad_(), torch.tensor(label))


def test_real_and_made_images_are_augmented_alike_and_gradients_come_back() -> None:
    augment = DiffAugment(colour=1.0, translation=0.25, cutout=0.5, flip=False)
    adversary = discriminator(augment=augment)
    given = shown([0] * 6)
    same = given._replace(reconstruction=given.image.clone().requires_grad_())
    judgement = adversary(same, 1)
    image, reconstruction, sample = adversary.network.seen[0].split(6)  # pyright: ignore[reportIndexIssue]
    assert not torch.allclose(image, given.image)
    torch.testing.assert_close(image, reconstruction)
    assert not torch.allclose(sample, given.sample)
    assert judgement.feature_matching.abs().max() < 1e-10
    for gradient in torch.autograd.grad(
        judgement.generator_loss, [same.reconstruction, same.sample], retain_graph=True
    ):
        assert gradient.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize(("step", "times"), [(0, 3), (1, 0), (2, 0), (3, 3)])
def test_the_gradient_penalty_is_added_when_it_is_due(step: int, times: int) -> None:
    given = shown([0] * 4)
    without, adversary = discriminator(), discriminator(r1=0.5, r1_every=3)
    penalty = adversary.network.head.weight.square().sum() / 2  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    more = adversary(given, step).loss - without(given, step).loss
    torch.testing.assert_close(more, times * 0.5 * penalty, rtol=1e-4, atol=1e-5)


def test_a_discriminator_says_real_of_real_and_made_of_made_images() -> None:
    adversary = discriminator()
    given = shown([0] * 4)
    logits = adversary.network.head(torch.cat(list(given[:3])).flatten(1)).split([4, 8])  # pyright: ignore[reportCallIssue]
    expected = -F.logsigmoid(logits[0]).mean() - F.logsigmoid(-logits[1]).mean()
    judgement = adversary(given, 1)
    torch.testing.assert_close(judgement.loss, expected)
    torch.testing.assert_close(judgement.generator_loss, -F.logsigmoid(logits[1]).mean())


def test_a_classifier_learns_from_real_images_alone() -> None:
    adversary = classifier(3)
    given = shown([0, 2, 2, 1])
    judgement = adversary(given, 1)
    logits = adversary.network.head(given.image.flatten(1))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(judgement.loss, F.cross_entropy(logits, given.label))
    gradients = torch.autograd.grad(judgement.loss, [given.reconstruction, given.sample], allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_a_classifier_matches_the_means_of_each_class_and_judges_samples_by_theirs() -> None:
    label = [0, 0, 0, 1, 2, 2]
    given = shown(label)
    rows = [given.label == c for c in range(3)]
    means = [[x[row].flatten(1).mean(0) for row in rows] for x in (given.image, given.sample)]
    expected = torch.stack([(a - b).square().sum() / 2 for a, b in zip(*means, strict=True)]).sum()
    torch.testing.assert_close(classifier(3, mean_matching=1.0)(given, 1).generator_loss, expected)
    adversary = classifier(3, cross_entropy=2.0)
    logits = adversary.network.head(given.sample.flatten(1))  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(adversary(given, 1).generator_loss, 2 * F.cross_entropy(logits, given.label))


class Shade(nn.Module):
    """Decodes a class to a grey level of its own, whatever the latents."""

    def __init__(self, nlatent: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(-4, 4, 10))
        self.nlatent = nlatent
        self.shape = shape

    def forward(self, z: Tensor) -> Tensor:
        return (z[:, self.nlatent :] @ self.levels)[:, None, None, None].expand(-1, *self.shape)


def test_samples_have_the_classes_that_adversaries_are_told(config: Compose) -> None:
    task, batch, _ = played(config, *CVAEGAN)
    assert len(batch.label.unique()) > 3
    task.learner.decoder = Shade(task.learner.nlatent, tuple(batch.image.shape[1:]))
    _, round_ = task.forward_batch(batch, WARM)
    torch.testing.assert_close(round_.label, batch.label)
    expected = torch.linspace(-4, 4, 10).sigmoid()[batch.label]
    for images in (round_.reconstruction, round_.sample):
        torch.testing.assert_close(images.mean((1, 2, 3)), expected)


@pytest.mark.parametrize(("distortion", "beta"), [(1.0, 1.0), (1.0, 0.25), (0.5, 1.0), (0.0, 3.0)])
def test_distortion_and_rate_have_their_weights(config: Compose, distortion: float, beta: float) -> None:
    task, batch, _ = played(config, *VAEGAN, f"task.distortion={distortion}", f"objective.beta={beta}")
    terms, _ = task.forward_batch(batch, WARM)
    torch.testing.assert_close(terms.loss, distortion * terms.distortion + beta * terms.rate)


def change(task: VAEGANTask, batch: Any, optimizers: list[Any], step: int = WARM, **parts: Any) -> list[Tensor]:
    """What one step of length 1 along the gradient does to the decoder."""
    for name, part in parts.items():
        setattr(task, name, part)
    before = [weight.clone() for weight in task.learner.decoder.parameters()]
    torch.manual_seed(0)
    task.step(batch, step, torch.optim.SGD(task.learner.parameters(), lr=1.0), *optimizers[1:])
    return [after.detach() - was for after, was in zip(task.learner.decoder.parameters(), before, strict=True)]


def test_the_guards_scale_lowers_the_pull(config: Compose) -> None:
    moves, weights = [], []
    for scale in (0.0, 0.5, 1.0):
        task, batch, optimizers = played(config, *VAEGAN, "task.weight_bounds=[100.0,100.0]")
        task.guard.scale.fill_(scale)
        moves.append(torch.cat([move.flatten().double() for move in change(task, batch, optimizers, 2 * WARM)]))
        weights.append(task.notes["adversarial_weight"].item())
    assert weights == pytest.approx([0, 50, 100])
    half, whole = ((move - moves[0]).norm() for move in moves[1:])
    assert whole > 0
    assert (half / whole).item() == pytest.approx(0.5, rel=0.05)


class Darkness(Perceptual):
    """How bright reconstructions are."""

    def forward(self, image: Tensor, reconstruction: Tensor) -> Tensor:
        return 1e4 * reconstruction.sum((1, 2, 3))


def test_the_perceptual_distance_is_minimised(config: Compose) -> None:
    settings = (*VAEGAN, "task.adversarial_ratio=0.0")
    (plain, batch, optimizers), (task, _, others) = played(config, *settings), played(config, *settings)
    torch.manual_seed(0)
    _, seen = task.forward_batch(batch, WARM)
    decoder = list(task.learner.decoder.parameters())
    expected = torch.autograd.grad(-1e4 * seen.reconstruction.sum((1, 2, 3)).mean(), decoder)
    first = change(plain, batch, optimizers)
    second = change(task, batch, others, perceptual=Darkness())
    for without, within, gradient in zip(first, second, expected, strict=True):
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(within - without, gradient, rtol=1e-2, atol=1e-3 * float(gradient.abs().max()))

"""Extractors on real digits and paintings: the worse the images, the larger the distance."""

from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import MNIST
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor

from vae_lab.data.images import ImageSet, scaled
from vae_lab.errors import DataError
from vae_lab.evaluation.comparison import compare_sets, describe_sets
from vae_lab.evaluation.extractors import load_extractor
from vae_lab.evaluation.metrics.features import (
    DigitClassifier,
    EfficientNetLite,
    Extractor,
    RandomVGG,
    features_of,
    train_classifier,
)
from vae_lab.evaluation.metrics.two_sample import frechet_distance, kernel_distance, kernel_interval

EXTRACTORS = [RandomVGG(1), RandomVGG(3), DigitClassifier(1, 10).eval(), DigitClassifier(3, 4).eval()]


def noise(images: Tensor) -> Tensor:
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


@cache
def mnist(root: Path, *, train: bool) -> ImageSet:
    found = MNIST(root, train=train)
    return ImageSet(found.data[:, None], found.targets.long())


@cache
def trained(root: Path) -> DigitClassifier:
    return train_classifier(mnist(root, train=True), nbatches=200, batch_size=64, learning_rate=0.01, seed=0)


def small_digits() -> ImageSet:
    pixels, labels = load_digits(return_X_y=True)
    return ImageSet(torch.from_numpy(pixels * 15).byte().view(-1, 1, 8, 8), torch.from_numpy(labels).long())


def accuracy(model: DigitClassifier, images: ImageSet) -> float:
    batch = images.__getitems__(slice(None))
    with torch.no_grad():
        return model.logits(batch.image).argmax(1).eq(batch.label).double().mean().item()


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda extractor: extractor.key)
@pytest.mark.parametrize("size", [8, 11, 28, 64])
def test_an_extractor_describes_images_of_any_size(extractor: Extractor, size: int) -> None:
    channels = next(extractor.parameters()).shape[1]
    images = torch.rand(5, channels, size, size, generator=torch.Generator().manual_seed(0))
    vectors = features_of(extractor, images, 2)
    assert vectors.shape == (5, extractor.nfeatures)
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()
    assert not vectors.requires_grad
    torch.testing.assert_close(vectors, features_of(extractor, images, 5), atol=1e-5, rtol=1e-4)


def test_features_come_in_order_from_batches_of_any_size() -> None:
    images = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def batches() -> Iterable[Tensor]:
        yield from images.split([7, 1, 3])

    whole = features_of(RandomVGG(1), images, 100)
    torch.testing.assert_close(features_of(RandomVGG(1), batches(), 2), whole, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        features_of(RandomVGG(1), images, 0)


def test_random_weights_are_always_the_same_and_draw_nothing() -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = RandomVGG(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first(image), RandomVGG(3)(image))
    assert not any(p.requires_grad for p in first.parameters())
    assert first(image).mean().item() == pytest.approx(1.0617, abs=1e-3), "published numbers change with the weights"


def test_training_depends_on_its_seed_alone() -> None:
    images = small_digits()
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def weights(seed: int) -> Tensor:
        model = train_classifier(images, nbatches=5, batch_size=16, learning_rate=0.01, seed=seed)
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        return torch.cat([p.flatten() for p in model.parameters()])

    first = weights(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    with torch.inference_mode():
        again = weights(0)
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(1))


def test_a_small_set_is_learnt_by_heart_and_beyond() -> None:
    images = small_digits()
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, held_out = images.subset(rows[:1300]), images.subset(rows[1300:])
    model = train_classifier(train, nbatches=120, batch_size=64, learning_rate=0.01, seed=0)
    assert accuracy(model, train) > 0.99
    assert accuracy(model, held_out) > 0.96


def test_images_without_classes_are_refused() -> None:
    images = ImageSet(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="fewer than 2 classes; choose features=vgg"):
        train_classifier(images, nbatches=1, batch_size=2, learning_rate=0.01, seed=0)
    with pytest.raises(ValueError, match="nbatches must be a whole number"):
        train_classifier(images, nbatches=0, batch_size=2, learning_rate=0.01, seed=0)


def test_the_classifier_reads_held_out_digits(shared: Path) -> None:
    assert accuracy(trained(shared), mnist(shared, train=False).subset(torch.arange(5000))) > 0.97


def test_worse_digits_are_farther_from_real_ones(shared: Path) -> None:
    model = trained(shared)
    real, held_out = (mnist(shared, train=False).__getitems__(slice(s, s + 1000)).image for s in (0, 1000))
    degrees = {
        "noisy": [(held_out + sigma * noise(held_out)).clamp(0, 1) for sigma in (0.2, 0.4, 0.8)],
        "blurred": [gaussian_blur(held_out, [9, 9], [sigma, sigma]) for sigma in (1.0, 2.0, 4.0)],
        "shifted": [held_out.roll(pixels, 3) for pixels in (2, 4, 7)],
    }
    vectors = features_of(model, real, 250)
    baseline = features_of(model, held_out, 250)
    interval = kernel_interval(vectors, baseline, ngroups=20)
    for name, images in degrees.items():
        found = [baseline, *(features_of(model, worse, 250) for worse in images)]
        for distance in (frechet_distance, kernel_distance):
            ranks = [distance(vectors, each) for each in found]
            assert all(low < high for low, high in pairwise(ranks)), (name, distance.__name__, ranks)
        assert kernel_distance(vectors, found[1]) > interval.high


@cache
def paintings(folder: Path, pattern: str, n: int) -> Tensor:
    files = sorted(folder.glob(pattern))[:n]
    pixels = [pil_to_tensor(Image.open(file).convert("RGB").resize((64, 64))) for file in files]
    return scaled(torch.stack(pixels)).contiguous()


def test_worse_paintings_are_farther_from_real_ones(shared: Path) -> None:
    extractor = RandomVGG(3)
    both = paintings(shared / "monet", "*.jpg", 160)
    real, held_out = both[::2], both[1::2]
    photos = paintings(shared / "not_monet", "photo_*.jpg", 50)
    degrees = {
        "blurred": [gaussian_blur(held_out, [17, 17], [sigma, sigma]) for sigma in (0.5, 1.5, 4.0)],
        "noisy": [(held_out + sigma * noise(held_out)).clamp(0, 1) for sigma in (0.05, 0.2)],
        "in blocks": [F.interpolate(F.avg_pool2d(held_out, size), scale_factor=size) for size in (2, 8)],
        "photos": [torch.cat([photos[:n], held_out[n:]]) for n in (25, 50)],
    }
    vectors, baseline = features_of(extractor, real, 50), features_of(extractor, held_out, 50)
    interval = kernel_interval(vectors, baseline, ngroups=4)
    assert interval.low < 0 < interval.high
    for name, images in degrees.items():
        found = [baseline, *(features_of(extractor, worse, 50) for worse in images)]
        for distance in (frechet_distance, kernel_distance):
            ranks = [distance(vectors, each) for each in found]
            assert all(low < high for low, high in pairwise(ranks)), (name, distance.__name__, ranks)


@cache
def lanczos(folder: Path, pattern: str, step: int) -> Tensor:
    files = sorted(folder.glob(pattern))[::step]
    size = Image.Resampling.LANCZOS
    return scaled(torch.stack([pil_to_tensor(Image.open(f).convert("RGB").resize((64, 64), size)) for f in files]))


def test_the_judges_intervals_rank_fog_noise_photos_and_unseen_paintings_apart(shared: Path) -> None:
    """Random features cannot: see `RandomVGG`."""
    judge = EfficientNetLite("lite2")
    both = lanczos(shared / "monet", "*.jpg", 4).contiguous()
    unseen, others = both[::4], [i for i in range(len(both)) if i % 4]
    sets = {
        "unseen": unseen,
        "photos": lanczos(shared / "not_monet", "photo_*.jpg", 1)[:67].contiguous(),
        "noisy": (unseen + 0.05 * noise(unseen)).clamp(0, 1),
        "fog": gaussian_blur(unseen, [17, 17], [3.0, 3.0]),
    }
    described = describe_sets(judge, sets, {"others": image_set(both[others])}, torch.device("cpu"))
    rows = compare_sets([described], lambda one, _: one.parts["others"], seed=0, ngroups=20, nreplicates=2, k=5)
    kid = {name: row["kid_lite2"] for name, row in rows.items()}
    assert kid["unseen"]["low"] < 0 < kid["unseen"]["high"]
    ranked = sorted(kid, key=lambda name: kid[name]["value"])
    assert ranked[0] == "unseen"
    assert ranked[-1] == "fog"
    assert all(kid[low]["high"] < kid[high]["low"] for low, high in pairwise(ranked)), kid
    assert rows["unseen"]["coverage_lite2"] > max(rows[name]["coverage_lite2"] for name in ranked[1:])


def image_set(images: Tensor) -> ImageSet:
    return ImageSet((255 * images).round().byte(), torch.zeros(len(images), dtype=torch.long))


def test_published_weights_of_dinov2_in_a_file_give_its_features(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    published = timm.create_model("vit_small_patch14_dinov2", num_classes=0)  # positions of 518 pixels, as in the file
    for name, weight in published.named_parameters():
        if name.endswith("gamma"):  # near 0 at first, which would hide the image
            nn.init.ones_(weight)
    file = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(published.state_dict() | {"mask_token": torch.zeros(1, 384)}, file)
    images = torch.rand(2, 3, 64, 64)
    network = load_extractor(str(file), ImageSet(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1).long()))
    assert (network.key, network.nfeatures) == ("dinov2", 384)
    published.set_input_size((224, 224))
    resized = F.interpolate(images, size=(224, 224), mode="bicubic", antialias=True)
    mean, deviation = (torch.tensor(published.default_cfg[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        found, expected = network(images), published((resized - mean) / deviation)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, DataError, "No such file"),
        (b"no weights", DataError, "is not a state dict of torch"),
        ({"weight": torch.zeros(1)}, ValueError, "holds neither DINOv2 nor Inception"),
        (
            {"pos_embed": torch.zeros(1, 5, 7), "mask_token": torch.zeros(1)},
            ValueError,
            "7 features is no size of DINOv2",
        ),
    ],
)
def test_a_file_of_other_weights_is_refused(
    tmp_path: Path, content: object, error: type[Exception], message: str
) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(error, match=message):
        load_extractor(str(file), small_digits())

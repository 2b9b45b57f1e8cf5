"""Whether copies are told from images that training has never seen, on real ones."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.transforms.functional import gaussian_blur, pil_to_tensor

from vae_lab.data.images import ImageSet
from vae_lab.evaluation.comparison import describe_sets
from vae_lab.evaluation.judging import find_nearest
from vae_lab.evaluation.metrics import memorisation as memorisation_module
from vae_lab.evaluation.metrics.feature_memorisation import feature_memorisation, nearest_panel
from vae_lab.evaluation.metrics.features import EfficientNetLite
from vae_lab.evaluation.metrics.memorisation import (
    Memorisation,
    copy_thresholds,
    memorisation,
    nearest,
    neighbour_panel,
)

NREFERENCE = 1000


def check(samples: Tensor, training: ImageSet, *, nreference: int, seed: int) -> Memorisation:
    usual = copy_thresholds(training, nreference=nreference, side=32, seed=seed)
    return memorisation(samples, training, usual, side=32)


def stored(pixels: Tensor) -> ImageSet:
    return ImageSet(pixels, torch.zeros(len(pixels), dtype=torch.int64))


def noise(like: Tensor, sigma: float) -> Tensor:
    return sigma * torch.randn(like.shape, generator=torch.Generator().manual_seed(3))


def random_images(n: int, channels: int = 3, size: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator).to(torch.uint8)


class Halves(NamedTuple):
    training: ImageSet
    copies: Tensor
    held_out: Tensor


def halves(pixels: Tensor, ntraining: int, nheld_out: int) -> Halves:
    """A random split, so that both parts have the same writers and motifs."""
    rows = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(5))
    training = stored(pixels).subset(rows[:ntraining])
    held_out = pixels[rows[ntraining : ntraining + nheld_out]] / 255
    return Halves(training, training.__getitems__(slice(nheld_out)).image, held_out)


@pytest.fixture(params=["mnist", "monet"])
def real(request: pytest.FixtureRequest, shared: Path) -> Halves:
    return parts_of(request.param, shared)


@cache
def parts_of(name: str, shared: Path) -> Halves:
    if name == "mnist":
        return halves(MNIST(str(shared)).data[:, None], 6000, 600)
    pictures = []
    for path in sorted((shared / "monet").glob("*.jpg")):
        with Image.open(path) as image:
            image.draft("RGB", (64, 64))
            pictures.append(pil_to_tensor(image))
    return halves(torch.stack(pictures), len(pictures) - 200, 200)


def judged(samples: Tensor, training: ImageSet) -> Memorisation:
    return check(samples, training, nreference=NREFERENCE, seed=0)


def shares(training: ImageSet, **sets: Tensor) -> dict[str, tuple[float, float]]:
    """The shares of equally many samples of several kinds, by distance and by ratio, in one search."""
    result = judged(torch.cat(list(sets.values())), training)
    close, odd = result.distances < result.threshold, result.ratios < result.ratio_threshold
    assert (result.share, result.ratio_share) == (close.double().mean(), odd.double().mean())
    flags = torch.stack([close, odd], 1).double().unflatten(0, (len(sets), -1)).mean(1)
    return dict(zip(sets, map(tuple, flags.tolist()), strict=True))


def test_copies_are_told_from_held_out_images(real: Halves) -> None:
    """Counts of n draws at 1 %, and as many of nreference behind the percentile: within 4 standard errors."""
    slack = 4 * math.sqrt(0.01 * 0.99 * (1 / len(real.held_out) + 1 / min(NREFERENCE, len(real.training))))
    noisy, coarse = real.copies + noise(real.copies, 0.02), (real.copies * 15).round() / 15
    found = shares(real.training, fair=real.held_out, copied=real.copies, noisy=noisy, coarse=coarse)
    assert slack < 0.04
    assert found.pop("fair") == pytest.approx((0.01, 0.01), abs=slack)
    assert min(map(min, found.values())) > 0.99


def test_blur_hides_copies_and_makes_none(real: Halves) -> None:
    kinds = {"fair": real.held_out, "copied": real.copies}
    blurred = {f"{kind} {s}": gaussian_blur(x, [9, 9], [s, s]) for kind, x in kinds.items() for s in (0.5, 1.0)}
    found = shares(real.training, **blurred)
    assert max(*found["fair 0.5"], *found["fair 1.0"]) < 0.045
    assert min(found["copied 0.5"]) > 0.9
    by_distance, by_ratio = found["copied 1.0"]
    assert by_ratio >= max(by_distance, 0.2)


def test_a_model_of_ones_has_a_high_share_by_distance(shared: Path) -> None:
    digits = MNIST(str(shared))
    split = halves(digits.data[:, None], 6000, 4000)
    rows = torch.randperm(60_000, generator=torch.Generator().manual_seed(5))[6000:10_000]
    result = judged(split.held_out[digits.targets[rows] == 1], split.training)
    assert result.share > 0.08
    assert result.ratio_share < 0.05


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("k", [1, 6])
def test_neighbours_are_those_of_brute_force(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, queries = random_images(64), random_images(10, seed=1) / 255
    monkeypatch.setattr(memorisation_module, "CHUNK_NUMBERS", chunk * pixels[0].numel())
    found = nearest(queries, stored(pixels), k, side=32)
    differences = queries.double()[:, None] - (pixels / 255).double()
    expected = differences.square().sum((2, 3, 4)).sqrt().sort(1)
    torch.testing.assert_close(found.distances, expected.values[:, :k], rtol=0, atol=1e-12)
    assert (found.indices == expected.indices[:, :k]).all()


@pytest.mark.parametrize("chunk", [7, 1000])
def test_an_excluded_image_is_no_neighbour(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = stored((random_images(64) * torch.linspace(0, 1, 64).view(-1, 1, 1, 1)).to(torch.uint8))  # dark to bright
    rows = torch.tensor([0, 6, 7, 8, 40, 63])
    queries = images.__getitems__(rows).image
    monkeypatch.setattr(memorisation_module, "CHUNK_NUMBERS", chunk * queries[0].numel())
    free, bound = (nearest(queries, images, 3, side=32, exclude=own) for own in (None, rows))
    assert (free.indices[:, 0] == rows).all()
    assert (free.distances[:, 0] == 0).all()
    assert (free.distances[:, 1:] == bound.distances[:, :2]).all()
    others = nearest(queries, images, 63, side=32, exclude=rows).indices
    assert (others.sum(1) == torch.arange(64).sum() - rows).all()  # all but itself


def test_one_level_of_one_pixel_counts() -> None:
    """Float32 products of bright images round away a difference of 1/255."""
    pixels = random_images(1, 1, 28).clamp(200, 254).repeat(50, 1, 1, 1)
    for i in range(49):
        pixels[i, 0, i % 28, i // 28] += 1
    shuffled = pixels[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    found = nearest(pixels / 255, stored(shuffled), 2, side=32)
    assert (shuffled[found.indices[:, 0]] == pixels).all()
    assert (found.distances[:, 0] == 0).all()
    torch.testing.assert_close(
        found.distances[:49, 1], torch.full((49,), 1 / 255, dtype=torch.float64), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_images_are_compared_by_area(layout: torch.memory_format) -> None:
    pixels = random_images(9, 3, 64)
    found = nearest((pixels / 255).to(memory_format=layout), stored(pixels), 2, side=16)
    assert found.indices[:, 0].tolist() == list(range(9))
    assert (found.distances[:, 0] == 0).all()
    small = (pixels / 255).double().unflatten(-1, (16, 4)).unflatten(-3, (16, 4)).mean((-3, -1)).flatten(1)
    expected = torch.cdist(small, small).sort(1).values[:, 1]
    torch.testing.assert_close(found.distances[:, 1], expected, rtol=1e-6, atol=0)


def test_duplicates_do_not_set_the_thresholds() -> None:
    """With every third training image there twice the percentile would be 0, and no copy below it."""
    single = random_images(300)
    doubled = stored(torch.cat([single, single[:100]]))
    result = judged(single / 255, doubled)
    assert min(result.threshold, result.ratio_threshold) > 0
    assert result.share == result.ratio_share == 1
    many = stored(torch.cat([single[:1].repeat(20, 1, 1, 1), single]))
    assert judged(single / 255, many).ratios.tolist() == [0.0] * 300


def test_the_same_seed_draws_the_same_reference() -> None:
    images, samples = stored(random_images(300)), random_images(20, seed=1) / 255
    first, again, other = (check(samples, images, nreference=50, seed=seed) for seed in (0, 0, 1))
    assert first.threshold == again.threshold != other.threshold
    six = nearest(samples, images, 6, side=32).distances
    torch.testing.assert_close(first.ratios, six[:, 0] / six[:, 1:].mean(1))
    assert (first.distances == other.distances).all()


def test_a_training_set_of_copies_or_too_few_is_refused() -> None:
    one = random_images(1)
    with pytest.raises(ValueError, match="All 50 training images looked at have exact duplicates"):
        check(one / 255, stored(one.repeat(60, 1, 1, 1)), nreference=50, seed=0)
    with pytest.raises(ValueError, match="There are 5 images, too few for 6 neighbours"):
        judged(one / 255, stored(random_images(5)))


@pytest.mark.parametrize("n", [3, 4, 6])
def test_the_panel_shows_each_sample_above_its_source(n: int) -> None:
    images = stored(torch.arange(0, 250, 10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 56, 56))
    samples, indices = torch.ones(n, 1, 56, 56), torch.arange(5, 5 + n)
    panel = neighbour_panel(samples, images, indices, ncolumns=4)
    tiles = panel[0, 30::58, 30::58]
    assert tiles.shape == (2 * math.ceil(n / 4), 4)
    assert tiles[0::2].flatten()[:n].tolist() == [255] * n
    assert tiles[1::2].flatten()[:n].tolist() == [10 * i for i in range(5, 5 + n)]


def shifts(images: Tensor) -> Tensor:
    """Copies that pixels do not recognise: moved and darkened."""
    return 0.95 * images.roll((1, 1), (2, 3))


def test_features_find_copies_that_are_moved_or_mirrored_and_no_others(shared: Path) -> None:
    files = sorted((shared / "monet").glob("*.jpg"))[:240]
    pixels = torch.stack([pil_to_tensor(Image.open(file).convert("RGB").resize((64, 64))) for file in files])
    training, unseen, fresh = (ImageSet(part, torch.zeros(len(part), dtype=torch.long)) for part in pixels.split(80))
    images = training.__getitems__(slice(40)).image
    sets = {
        "moved": shifts(images),
        "mirrored": images.flip(-1),
        "prior": fresh.__getitems__(slice(None)).image,
    }
    extractor, device = EfficientNetLite("lite2"), torch.device("cpu")
    parts = {"train": training, "val": unseen.subset(torch.arange(40)), "test": unseen.subset(torch.arange(40, 80))}
    described = describe_sets(extractor, sets, parts, device)
    found = find_nearest(extractor, described, training, device)
    shares = {name: feature_memorisation(found[name], found["unseen"]) for name in [*sets, "unseen"]}
    assert shares["unseen"].near_share == pytest.approx(0.05, abs=0.013)
    assert shares["prior"].near_share < 0.15
    for name in ("moved", "mirrored"):
        assert shares[name].near_share > 0.8
        assert shares[name].distance < 0.8 * shares[name].unseen_distance
        assert (found[name].indices == torch.arange(40)).double().mean() > 0.9
    assert found["mirrored"].distances.max() < 0.01
    assert found["mirrored"].is_mirrored.all()
    panel = nearest_panel(sets["mirrored"], training, found["mirrored"], 2)
    row = int(found["mirrored"].indices[found["mirrored"].distances.argsort()[0]])
    tiles = panel[:, 68 : 68 + 64, 2 : 2 + 64].float() / 255
    torch.testing.assert_close(tiles, training.__getitems__([row]).image[0].flip(-1), atol=0.01, rtol=0)

"""Two-sample distances against torchmetrics, closed forms and implementations by the book."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from vae_lab.evaluation.metrics import two_sample
from vae_lab.evaluation.metrics.two_sample import (
    Manifold,
    frechet_distance,
    frechet_interval,
    kernel_distance,
    kernel_interval,
    manifold,
)
from vae_lab.intervals import t_factor, t_interval

SIZES = [(200, 200, 12), (150, 90, 40), (30, 20, 64), (6, 9, 1)]
"""Vectors in each set and their dimensions; the third has singular covariances."""


def normals(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * scale + shift


def pair(n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    """Two sets with correlated coordinates and different means."""
    mixing = normals(d, d, 3) / math.sqrt(d)
    return normals(n, d, 1) @ mixing, normals(m, d, 2, scale=1.3) @ mixing + 0.4


class Flat(nn.Module):
    """Turns a torchmetrics image into its pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def by_torchmetrics(metric: FrechetInceptionDistance | KernelInceptionDistance, a: Tensor, b: Tensor) -> Any:
    for vectors, real in ((a, True), (b, False)):
        metric.update(vectors[:, None, None], real=real)
    return metric.compute()


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_the_frechet_distance_is_torchmetrics(n: int, m: int, d: int) -> None:
    a, b = pair(n, m, d)
    metric = FrechetInceptionDistance(Flat(), normalize=True, input_img_size=(1, 1, d))
    metric.set_dtype(torch.float64)
    theirs = by_torchmetrics(metric, a, b).item()
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-4)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_the_frechet_distance_of_isotropic_normals_is_the_closed_form() -> None:
    """|shift|^2 + d (scale_a - scale_b)^2."""
    a, b = normals(60_000, 8, 1, scale=2.0), normals(60_000, 8, 2, shift=0.5, scale=1.5)
    assert frechet_distance(a, b) == pytest.approx(8 * 0.5**2 + 8 * 0.5**2, rel=0.02)


def test_a_set_is_at_no_distance_from_itself() -> None:
    for n, d in ((50, 8), (5, 60)):
        a = normals(n, d, 1, shift=30.0)
        assert 0 <= frechet_distance(a, a) < 1e-5
        moved = a.double() + 2.0
        assert frechet_distance(a.double(), moved) == pytest.approx(4 * d, rel=1e-6)


@pytest.mark.parametrize(("n", "d", "shift"), [(80, 4, 1.0), (150, 4, 1.0), (900, 4, 1.0), (900, 60, 0.2)])
def test_the_resampled_error_is_the_spread_over_fresh_sets(n: int, d: int, shift: float) -> None:
    """Fewer vectors than groups, groups of one or two, larger groups; a bias of more than the distance."""
    fresh = [frechet_distance(normals(n, d, 2 * i), normals(n, d, 2 * i + 1, shift)) for i in range(60)]
    spread = torch.tensor(fresh).std().item()
    sets = ((normals(n, d, 9000 + i), normals(n, d, i, shift)) for i in range(4))
    found = [frechet_interval(a, b, nreplicates=30, seed=i) for i, (a, b) in enumerate(sets)]
    errors = torch.tensor([(interval.high - interval.value) / 1.96 for interval in found])
    assert errors.mean().item() == pytest.approx(spread, rel=0.25)


def test_the_frechet_interval_is_drawn_from_its_own_seed() -> None:
    a, b = normals(300, 6, 1), normals(200, 6, 2)
    before = torch.get_rng_state()
    first, again, other = (frechet_interval(a, b, nreplicates=10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other
    assert first.value == frechet_distance(a, b)
    assert 0 < first.low < first.value < first.high
    assert frechet_interval(a, a, nreplicates=10, seed=1).low == 0


def test_replicates_of_a_far_set_are_about_its_own_moments() -> None:
    a = normals(1050, 5, 1, shift=1000.0)
    generator = torch.Generator().manual_seed(0)
    means, covariances = zip(*two_sample._replicates(a, 400, generator), strict=True)
    torch.testing.assert_close(torch.stack(means).mean(0), a.double().mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(torch.stack(covariances).mean(0), a.double().T.cov(), atol=0.03, rtol=0)
    expected = a.double().var(0).sum().item() / len(a)
    assert torch.stack(means).var(0).sum().item() == pytest.approx(expected, rel=0.2)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_the_kernel_distance_is_torchmetrics(n: int, m: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(n, m, d)
    size = min(n, m)
    metric = KernelInceptionDistance(Flat(), subsets=1, subset_size=size, normalize=True)
    theirs, _ = by_torchmetrics(metric, a[:size], b[:size])
    ours = kernel_distance(a[:size], b[:size])
    assert ours == pytest.approx(theirs.item(), rel=1e-4, abs=1e-6)
    whole = kernel_distance(a, b)
    monkeypatch.setattr(two_sample, "CHUNK", 7)
    assert kernel_distance(a, b) == pytest.approx(whole, rel=1e-9)


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    found = torch.tensor([kernel_distance(normals(25, 6, 2 * i), normals(35, 6, 2 * i + 1)) for i in range(200)])
    assert found.mean().abs() < 4 * found.std() / math.sqrt(200)
    assert (found < 0).double().mean() > 0.3


def rectified(n: int, m: int, shift: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two sets of 64 features, correlated and rectified as those of a network; `shift` moves the second one."""
    mixing = normals(16, 64, 3) / 4
    a, b = (torch.randn(count, 16, generator=generator) for count in (n, m))
    noise = [0.3 * torch.randn(count, 64, generator=generator) for count in (n, m)]
    return torch.relu(a @ mixing + noise[0]), torch.relu((b + shift) @ mixing + noise[1])


CASES = [(107, 107, 0.0, 250), (107, 107, 0.3, 250), (256, 1000, 0.0, 60), (256, 1000, 0.3, 60)]
"""Set sizes, the shift of the second set, and repetitions."""


@pytest.mark.parametrize(("n", "m", "shift", "repetitions"), CASES)
def test_the_kernel_interval_holds_the_true_value_in_95_of_100_cases(
    n: int, m: int, shift: float, repetitions: int
) -> None:
    """Too often if the sets do not differ: in 98 of 100. The true value is the mean of an unbiased estimate."""
    generator = torch.Generator().manual_seed(0)
    found = [kernel_interval(*rectified(n, m, shift, generator), ngroups=20) for _ in range(repetitions)]
    values = torch.tensor([interval.value for interval in found], dtype=torch.float64)
    error = values.std().item() / math.sqrt(repetitions)
    truth = values.mean().item() if shift else 0.0
    assert abs(values.mean().item() - truth) < 3.5 * error
    held = sum(interval.low <= truth <= interval.high for interval in found) / repetitions
    assert held > 0.95 - 3 * math.sqrt(0.95 * 0.05 / repetitions)
    half_width = sum(interval.high - interval.value for interval in found) / repetitions
    assert 0.85 < half_width / (1.96 * values.std().item()) < (1.25 if shift else 1.8)


@pytest.mark.parametrize(("n", "m"), [(107, 107), (256, 1000)])
def test_the_kernel_interval_is_far_shorter_than_that_of_disjoint_blocks(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(1)
    ours, blocks = [], []
    for _ in range(30):
        a, b = rectified(n, m, 0.0, generator)
        ours.append(kernel_interval(a, b, ngroups=20))
        blocks.append(t_interval([kernel_distance(a[i::10], b[i::10]) for i in range(10)]))
    widths = [sum(interval.high - interval.low for interval in found) for found in (ours, blocks)]
    assert widths[0] < 0.5 * widths[1]


@pytest.mark.parametrize(("n", "m", "ngroups"), [(23, 31, 4), (20, 10, 5)])
def test_the_kernel_interval_is_the_jackknife_by_the_book(
    n: int, m: int, ngroups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = normals(n, 3, 1), normals(m, 3, 2, shift=0.3)
    of_a = [kernel_distance(a[torch.arange(n) % ngroups != g], b) for g in range(ngroups)]
    of_b = [kernel_distance(a, b[torch.arange(m) % ngroups != g]) for g in range(ngroups)]
    scale = (ngroups - 1) ** 2 / ngroups  # of the sample variance, which divides by ngroups - 1
    variance = sum(scale * torch.tensor(values, dtype=torch.float64).var().item() for values in (of_a, of_b))
    monkeypatch.setattr(two_sample, "CHUNK", 7)
    interval = kernel_interval(a, b, ngroups=ngroups)
    half = t_factor(ngroups - 1) * math.sqrt(variance)
    assert interval.value == pytest.approx(kernel_distance(a, b), rel=1e-9)
    assert interval.high - interval.value == pytest.approx(half, rel=1e-6)
    assert interval.value - interval.low == pytest.approx(half, rel=1e-6)


def by_the_book(real: Tensor, generated: Tensor, k: int) -> Manifold:
    """The four definitions, one pair of vectors at a time."""
    real_rows, generated_rows = real.double().tolist(), generated.double().tolist()
    real_radii = [sorted(math.dist(x, y) for y in real_rows)[k] for x in real_rows]
    generated_radii = [sorted(math.dist(x, y) for y in generated_rows)[k] for x in generated_rows]
    n, m = len(real_rows), len(generated_rows)
    inside = [[math.dist(x, y) <= r for y in generated_rows] for x, r in zip(real_rows, real_radii, strict=True)]
    recalled = sum(
        any(math.dist(x, y) <= r for y, r in zip(generated_rows, generated_radii, strict=True)) for x in real_rows
    )
    precise = sum(any(inside[i][j] for i in range(n)) for j in range(m))
    return Manifold(precise / m, recalled / n, sum(map(sum, inside)) / (k * m), sum(map(any, inside)) / n)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 13, 500])
def test_manifolds_are_those_of_the_book(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_sample, "CHUNK", chunk)
    real, generated = normals(70, 3, 1), normals(45, 3, 2, shift=0.8, scale=0.7)
    expected = by_the_book(real, generated, k)
    assert min(expected) > 0
    assert manifold(real, generated, k) == pytest.approx(expected)


def test_identical_and_disjoint_sets_are_the_extremes() -> None:
    real = normals(300, 4, 1, shift=50.0)
    same = manifold(real, real, 5)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert manifold(real, real + 100, 5) == Manifold(0, 0, 0, 0)


def test_equal_distributions_have_the_expected_density_and_coverage() -> None:
    found = manifold(normals(1500, 4, 1), normals(1500, 4, 2), 5)
    assert found.density == pytest.approx(1, abs=0.05)
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)


def test_a_dropped_mode_lowers_recall_and_coverage_alone() -> None:
    real = torch.cat([normals(200, 4, 1), normals(200, 4, 2, shift=20.0)])
    whole = manifold(real, torch.cat([normals(200, 4, 3), normals(200, 4, 4, shift=20.0)]), 5)
    dropped = manifold(real, normals(400, 4, 5), 5)
    assert dropped.precision > whole.precision - 0.05
    assert dropped.density > whole.density - 0.1
    assert dropped.recall < whole.recall - 0.4
    assert dropped.coverage < whole.coverage - 0.4


def test_an_outlier_raises_precision_but_hardly_density() -> None:
    """A far real vector has a ball that reaches to all the others: Naeem et al. 2020, figure 1."""
    real, generated = normals(200, 4, 1), normals(200, 4, 2, shift=6.0)
    with_outlier = torch.cat([real, torch.full((1, 4), 12.0)])
    without, found = manifold(real, generated, 5), manifold(with_outlier, generated, 5)
    assert without.precision < 0.05
    assert found.precision > 0.9
    assert found.density < 0.25
    assert found.coverage < 0.05


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: frechet_distance(a[:1], a), "sets of 1 and 20 vectors; at least 2"),
        (lambda a: kernel_distance(a, a[:0]), "sets of 20 and 0 vectors"),
        (lambda a: frechet_interval(a, a, nreplicates=1, seed=0), "nreplicates=1 "),
        (lambda a: kernel_interval(a, a[:7], ngroups=4), "ngroups=4 for sets of 20 and 7 vectors"),
        (lambda a: kernel_interval(a, a, ngroups=1), "ngroups=1 "),
        (lambda a: kernel_interval(a, a, ngroups=0), "ngroups=0 "),
        (lambda a: manifold(a, a[:5], 5), "sets of 20 and 5 vectors; at least 6"),
        (lambda a: manifold(a, a, 0), "k must be a whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[Tensor], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(normals(20, 3, 1))

"""Conformal p-values against their definition and their guarantee."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vae_lab.detection.conformal import (
    discoveries,
    false_alarms,
    fewest_discoveries,
    p_values,
    require_level,
    require_scores,
    smallest_p_value,
    verdicts,
)

NAN, INF = float("nan"), float("inf")


def normals(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def tied(n: int, seed: int = 0) -> Tensor:
    """Scores of which many are equal."""
    return (normals(n, seed) * 3).round()


@pytest.mark.parametrize(
    ("calibration", "scores", "expected"),
    [
        ([1, 2, 3, 4], [0, 1, 2.5, 4, 5], [5, 5, 3, 2, 1]),
        ([4, 1, 3, 2], [5, 4], [1, 2]),
        ([2, 2, 2, 7], [2, 1.9, 2.1, 7], [5, 5, 2, 2]),
        ([1, INF, 3, 4], [INF, 4, -INF], [2, 3, 5]),
        ([3, 3, 3, 3], [], []),
    ],
)
def test_p_values_count_by_hand(calibration: list[float], scores: list[float], expected: list[int]) -> None:
    found = p_values(torch.tensor(calibration, dtype=torch.float32), torch.tensor(scores, dtype=torch.float32))
    assert found.tolist() == [n / 5 for n in expected]


@pytest.mark.parametrize("scores", [normals, tied])
def test_p_values_are_their_definition_in_any_order_and_precision(scores: Callable[[int, int], Tensor]) -> None:
    calibration, new = scores(83, 1), scores(200, 2)
    expected = torch.tensor([(1 + int((calibration >= score).sum())) / 84 for score in new], dtype=torch.float64)
    assert torch.equal(p_values(calibration, new), expected)
    order = torch.randperm(83, generator=torch.Generator().manual_seed(0))
    assert torch.equal(p_values(calibration[order].double(), new.flip(0)), expected.flip(0))
    assert torch.equal(torch.cat([p_values(calibration, part) for part in new.split(7)]), expected)


def repeated(scores: Callable[[int, int], Tensor], n: int, repetitions: int) -> Tensor:
    """The p-value of a fresh normal image beside a fresh calibration set, many times."""
    everything = scores(repetitions * (n + 1), 5).view(repetitions, n + 1)
    return torch.cat([p_values(row[1:], row[:1]) for row in everything])


def test_p_values_of_normal_images_are_uniform() -> None:
    """Kolmogorov-Smirnov at 1 %, after each multiple of 1/50 is spread over the step below it."""
    n, repetitions = 49, 3000
    found = repeated(normals, n, repetitions)
    spread = torch.rand(repetitions, generator=torch.Generator().manual_seed(1)) / (n + 1)
    ordered = (found - spread).sort().values
    upper = torch.arange(1, repetitions + 1) / repetitions
    distance = max((upper - ordered).max(), (ordered - upper + 1 / repetitions).max())
    assert distance < 1.628 / math.sqrt(repetitions)


@pytest.mark.parametrize("alpha", [0.02, 0.05, *(pytest.param(alpha, marks=pytest.mark.slow) for alpha in (0.2, 0.5))])
@pytest.mark.parametrize("n", [49, 99])
def test_false_alarms_are_as_rare_as_said(n: int, alpha: float) -> None:
    repetitions = 2000
    rate = math.floor(alpha * (n + 1) + 1e-9) / (n + 1)
    band = 2.576 * math.sqrt(rate * (1 - rate) / repetitions)
    flagged = verdicts(repeated(normals, n, repetitions), alpha).double().mean().item()
    assert abs(flagged - rate) < band
    assert verdicts(repeated(tied, n, repetitions), alpha).double().mean().item() < alpha + band


@pytest.mark.parametrize("n", [2, 9, 19, 99])
def test_the_share_flagged_is_that_of_the_verdicts(n: int) -> None:
    """Also where alpha is a multiple of 1 / (n + 1), as 29/100, where 0.29 * 100 is less than 29."""
    each_rank = torch.arange(n + 1) - 0.5
    for k in {1, 2, 29 * n // 99, 57 * n // 99, n - 1} - {0}:
        for alpha in (k / (n + 1), (k + 0.5) / (n + 1)):
            flagged = verdicts(p_values(torch.arange(float(n)), each_rank), alpha)
            assert false_alarms(n, alpha).value == pytest.approx(flagged.double().mean().item()), (k, alpha)


def test_the_smallest_p_value_is_the_strangest_images() -> None:
    for n in (1, 19, 1000):
        assert p_values(normals(n), torch.tensor([1e9])).item() == smallest_p_value(n)
        require_level(n, smallest_p_value(n))


def test_a_calibration_sets_own_rate_has_the_spread_that_is_told() -> None:
    """Scores uniform on [0, 1], so that the share above a threshold is known."""
    for n, alpha, k in ((99, 0.05, 5), (200, 0.1, 20)):
        sets = torch.rand(4000, n, generator=torch.Generator().manual_seed(n))
        rates = 1 - sets.topk(k).values[:, -1]  # the share above the score at which verdicts change
        found = false_alarms(n, alpha)
        assert found.value == pytest.approx(k / (n + 1))
        assert rates.mean().item() == pytest.approx(found.value, rel=0.03)
        inside = ((rates > found.low) & (rates < found.high)).double().mean().item()
        assert abs(inside - 0.95) < 2.576 * math.sqrt(0.95 * 0.05 / 4000)
    assert false_alarms(1000, 0.05)[1:] == pytest.approx((0.03734, 0.06427), abs=2e-5)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: require_level(50, 0.01), r"alpha=0.01 .* 50 calibration .* 0.0196; .* at least 99 images"),
        (lambda: false_alarms(18, 0.05), r"alpha=0.05 would flag nothing.* at least 19 images"),
        (lambda: require_level(50, 0.01, "fdr"), r"fdr=0.01 .* choose a higher fdr"),
        (lambda: discoveries(torch.ones(3, dtype=torch.float64), 1.0), r"fdr must lie in \(0, 1\), not 1.0"),
        (lambda: discoveries(torch.full((3,), NAN, dtype=torch.float64), 0.5), "3 of 3 p-values"),
        (lambda: require_level(50, 0.0), r"alpha must lie in \(0, 1\), not 0.0"),
        (lambda: require_level(50, NAN), r"alpha must lie in \(0, 1\), not nan"),
        (lambda: verdicts(torch.ones(3, dtype=torch.float64), 1.0), r"alpha must lie in \(0, 1\), not 1.0"),
        (lambda: verdicts(torch.full((3,), NAN, dtype=torch.float64), 0.5), "3 of 3 p-values"),
        (lambda: smallest_p_value(0), "ncalibration must be"),
        (lambda: p_values(normals(0), normals(3)), "no calibration scores"),
        (lambda: p_values(torch.tensor([1.0, NAN]), normals(3)), "1 of 2 calibration scores are NaN"),
        (lambda: p_values(normals(3), torch.tensor([NAN, NAN, 1.0])), "2 of 3 new scores are NaN"),
        (lambda: require_scores(normals(0), "grey"), "no grey scores"),
    ],
)
def test_what_tells_nothing_is_refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize(
    ("p", "fdr", "expected"),
    [
        ([0.01, 0.02, 0.03, 0.5], 0.04, [1, 1, 1, 0]),  # 0.03 = 0.04 * 3 / 4, and 0.01, 0.02 are at their bounds
        ([0.02, 0.03, 0.03, 0.5], 0.04, [1, 1, 1, 0]),  # the smallest is above its own bound, the third is not
        ([0.5, 0.011], 0.02, [0, 0]),
        ([0.5, 0.01], 0.02, [0, 1]),
        ([0.1], 0.1, [1]),
        ([], 0.1, []),
    ],
)
def test_discoveries_by_hand(p: list[float], fdr: float, expected: list[int]) -> None:
    found = discoveries(torch.tensor(p, dtype=torch.float64), fdr)
    assert found.tolist() == [bool(flag) for flag in expected]


@pytest.mark.parametrize("nstrange", [0, 20])
@pytest.mark.parametrize("scores", [normals, tied])
def test_false_discoveries_are_as_rare_as_said(scores: Callable[[int, int], Tensor], nstrange: int) -> None:
    """A thousand batches of 200 images, each with calibration scores of its own."""
    repetitions, n, nimages, fdr = 1000, 999, 200, 0.1
    calibrations, batches = scores(repetitions * n, 3).view(-1, n), scores(repetitions * nimages, 4).view(-1, nimages)
    batches[:, :nstrange] += 12 if scores is tied else 4  # the tied scores are three times as wide
    wrong, right = torch.zeros(repetitions), torch.zeros(repetitions)
    for i, (calibration, batch) in enumerate(zip(calibrations, batches, strict=True)):
        flagged = discoveries(p_values(calibration, batch), fdr)
        wrong[i] = flagged[nstrange:].sum() / flagged.sum().clamp(min=1)
        right[i] = flagged[:nstrange].double().mean()
    error = wrong.std() / math.sqrt(repetitions)
    assert wrong.mean() <= fdr * (1 - nstrange / nimages) + 2.576 * error
    if nstrange:
        assert right.mean() > 0.75
        if scores is normals:  # ties make the p-values larger
            assert wrong.mean() > 0.07


@pytest.mark.parametrize(("n", "nimages", "fewest"), [(99, 200, 20), (999, 200, 2), (1000, 10, 1), (19, 200, 100)])
def test_the_fewest_discoveries_are_flagged_and_one_less_is_not(n: int, nimages: int, fewest: int) -> None:
    assert fewest_discoveries(n, nimages, 0.1) == fewest
    for k in (fewest, fewest - 1):
        p = torch.ones(nimages, dtype=torch.float64)
        p[:k] = smallest_p_value(n)
        assert discoveries(p, 0.1).sum() == (k if k == fewest else 0)

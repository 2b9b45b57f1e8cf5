"""Detection metrics against scikit-learn, closed forms and cases by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from sklearn import metrics
from torch import Tensor

from vae_lab.detection import metrics as module
from vae_lab.detection.metrics import (
    CONSTANTS,
    auroc,
    constant_images,
    detection,
    inverted,
    roc,
)

INF = float("inf")


def normals(n: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def values(normal: Tensor, anomalous: Tensor) -> tuple[float, ...]:
    return tuple(interval.value for interval in detection(normal, anomalous, nreplicates=1, seed=0))


CASES = [
    (normals(200, 1), normals(150, 2, 1.0)),
    (normals(40, 1).round(), normals(300, 2, 1.0).round()),
    (normals(301, 1), normals(21, 2, 3.0).round()),
    (normals(100, 1), normals(100, 2, -2.0)),
    (normals(50, 1).round(), normals(1, 2)),
    (torch.zeros(10), torch.zeros(20)),
    (normals(30, 1), normals(20, 2, 50.0)),
]


@pytest.mark.parametrize(("normal", "anomalous"), CASES)
def test_the_metrics_are_scikit_learns(normal: Tensor, anomalous: Tensor) -> None:
    scores = torch.cat([normal, anomalous]).numpy()
    truth = [0] * len(normal) + [1] * len(anomalous)
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    needed = math.ceil(len(anomalous) * 95 / 100)
    fpr95 = false[(true * len(anomalous)).round() >= needed].min()
    expected = (metrics.roc_auc_score(truth, scores), metrics.average_precision_score(truth, scores), fpr95)
    assert values(normal, anomalous) == pytest.approx(expected, abs=1e-12)
    assert auroc(normal, anomalous) == pytest.approx(expected[0], abs=1e-12)
    curve = roc(normal, anomalous)
    torch.testing.assert_close(curve.false_positives, torch.from_numpy(false))
    torch.testing.assert_close(curve.true_positives, torch.from_numpy(true))


@pytest.mark.parametrize(
    ("normal", "anomalous", "expected"),
    [
        ([1, 2], [3, 4], (1, 1, 0)),
        ([3, 4], [1, 2], (0, (1 / 3 + 2 / 4) / 2, 1)),
        ([1, 2], [2, 3], ((1 + 0.5 + 1 + 1) / 4, (1 + 2 / 3) / 2, 0.5)),
        ([5, 5, 5], [5], (0.5, 0.25, 1)),
        ([1, INF], [INF, 0], (0.375, (1 / 2 + 2 / 4) / 2, 1)),
    ],
)
def test_the_metrics_by_hand(normal: list[float], anomalous: list[float], expected: tuple[float, ...]) -> None:
    assert values(torch.tensor(normal).float(), torch.tensor(anomalous).float()) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "nmissed"), [(20, 1), (19, 0), (100, 5), (140, 7)])
def test_5_percent_of_the_anomalous_images_may_be_missed(n: int, nmissed: int) -> None:
    """One normal image lies above all that may be missed, one above all that may not."""
    anomalous = torch.arange(float(n))
    assert values(torch.tensor([nmissed - 0.5, nmissed + 0.5]), anomalous)[2] == 0.5


def test_the_bootstrap_is_a_resampling_of_images() -> None:
    """By the book: draw indices, score the drawn images; the intervals agree within their own noise."""
    normal, anomalous = normals(60, 1).mul(3).round(), normals(90, 2, 1.0).mul(3).round()
    generator = torch.Generator().manual_seed(5)
    replicates = []
    for _ in range(400):
        drawn = [kind[torch.randint(len(kind), (len(kind),), generator=generator)] for kind in (normal, anomalous)]
        replicates.append([metric(*module._counts(*drawn)) for metric in module.METRICS])
    found = detection(normal, anomalous, nreplicates=4000, seed=1)
    for interval, column in zip(found, torch.tensor(replicates, dtype=torch.float64).T, strict=True):
        low, high = column.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        width = interval.high - interval.low
        assert 0.03 < width < 0.6
        assert interval.low == pytest.approx(low, abs=0.2 * width)
        assert interval.high == pytest.approx(high, abs=0.2 * width)


def test_the_interval_holds_the_true_auroc_in_95_of_100_cases() -> None:
    shift, repetitions = 1.0, 200
    truth = (1 + math.erf(shift / 2)) / 2  # Phi(shift / sqrt 2)
    found = [
        detection(normals(100, 2 * i), normals(80, 2 * i + 1, shift), nreplicates=200, seed=i).auroc
        for i in range(repetitions)
    ]
    held = sum(interval.low <= truth <= interval.high for interval in found) / repetitions
    assert abs(held - 0.95) < 2.576 * math.sqrt(0.95 * 0.05 / repetitions)


def test_intervals_come_from_their_own_seed_and_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    normal, anomalous = normals(80, 1), normals(50, 2, 1.0)
    before = torch.get_rng_state()
    found = detection(normal, anomalous, nreplicates=100, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert detection(normal.flip(0), anomalous.roll(7), nreplicates=100, seed=1) == found
    assert detection(normal, anomalous, nreplicates=100, seed=2) != found
    assert detection(normal.exp(), anomalous.exp(), nreplicates=100, seed=1) == found
    for interval in found:
        assert interval.low < interval.value < interval.high
    monkeypatch.setattr(module, "HELD", 1000)
    for interval, whole in zip(detection(normal, anomalous, nreplicates=900, seed=1), found, strict=True):
        assert interval == pytest.approx(whole, abs=0.06)


def test_perfect_separation_is_a_point() -> None:
    found = detection(normals(30, 1), normals(20, 2, 99.0), nreplicates=50, seed=0)
    assert found == ((1, 1, 1), (1, 1, 1), (0, 0, 0))


def test_constant_images_are_black_grey_and_white() -> None:
    images = constant_images(3, 5, 7)
    assert images.shape == (len(CONSTANTS), 3, 5, 7)
    assert images.flatten(1).std(1).eq(0).all()
    assert images[:, 0, 0, 0].tolist() == [0, 0.5, 1]


def test_the_guard_names_what_is_preferred_to_normal_images() -> None:
    calibration = torch.arange(100.0)
    probes = {"black": [2.5], "grey": [49.0], "tied": [49.5], "white": [1e9], "simpler": [-1.0, 20.0, 60.0]}
    found = inverted(calibration, {name: torch.tensor(scores) for name, scores in probes.items()})
    assert found == pytest.approx({"black": 0.97, "simpler": (1.0 + 0.79 + 0.39) / 3})
    assert inverted(calibration.flip(0), {"grey": torch.tensor([48.0])}) == pytest.approx({"grey": 0.51})
    assert inverted(torch.zeros(9), {"calibration": torch.zeros(1)}) == {}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda a: detection(a, a[:0], nreplicates=9, seed=0), "no anomalous scores"),
        (lambda a: detection(a[:0], a, nreplicates=9, seed=0), "no normal scores"),
        (lambda a: auroc(a, a * float("nan")), "20 of 20 anomalous scores are NaN"),
        (lambda a: detection(a, a, nreplicates=0, seed=0), "nreplicates must be"),
        (lambda a: inverted(a[:0], {"grey": a}), "no calibration scores"),
        (lambda a: inverted(a, {"grey": a * float("nan")}), "20 of 20 grey scores"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[Tensor], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(normals(20, 3))

"""Means over seeds, by hand."""

from math import nan
from pathlib import Path

import pytest

from vae_lab.intervals import t_interval
from vae_lab.reporting.flat_config import ABSENT, Settings
from vae_lab.reporting.run_records import RunRecord
from vae_lab.reporting.seed_groups import cautions, decimal, difference, grouped, verdict
from vae_lab.reporting.tables import csv_table, escaped, markdown
from vae_lab.system.quoting import literal

KEYS = ["model.nlatent"]
METRIC = "test/neg_elbo"


def trial(nlatent: int, seed: int, score: float | None, status: str = "completed", name: str = "") -> RunRecord:
    """A run in memory."""
    metrics = {} if score is None else {METRIC: score}
    settings: Settings = {"model.nlatent": nlatent}
    name = name or f"{nlatent}/{seed}"
    return RunRecord(name=name, folder=Path(), status=status, settings=settings, seed=str(seed), metrics=metrics)


@pytest.mark.parametrize(
    ("values", "mean", "reach"),
    [
        ([1.0, 2.0, 3.0], 2.0, 4.302652729911275 / 3**0.5),  # t of 2 degrees of freedom; deviation 1
        ([10.0, 14.0], 12.0, 12.706204736432095 * 2),  # 1 degree; deviation sqrt(8) over sqrt(2)
        ([5.0, 5.0, 5.0, 5.0], 5.0, 0.0),
    ],
)
def test_the_interval_is_students(values: list[float], mean: float, reach: float) -> None:
    found = t_interval(values)
    assert found == pytest.approx((mean, mean - reach, mean + reach))


def test_without_two_seeds_there_is_no_interval() -> None:
    assert t_interval([3.0]) == pytest.approx((3.0, nan, nan), nan_ok=True)


def test_cells_are_of_finished_runs_and_each_seed_counts_once() -> None:
    trials = [
        trial(2, 0, 10.0),
        trial(2, 1, 20.0),
        trial(2, 1, 30.0, name="the same seed again"),
        trial(2, 2, 1.0, "diverged"),
        trial(8, 0, 12.0),
        trial(4, 0, None, "failed"),
        RunRecord(name="unknown", folder=Path(), status="completed", metrics={METRIC: 0.0}),
    ]
    cells = grouped(trials, KEYS, METRIC)
    assert [cell.settings["model.nlatent"] for cell in cells] == [8, 2, 4]
    assert cells[1].values == [10.0, 25.0]
    assert cells[1].mean == 17.5
    assert [len(cell.trials) for cell in cells] == [1, 4, 1]
    assert [cell.settings["model.nlatent"] for cell in grouped(trials, KEYS, METRIC, lowest=False)] == [2, 8, 4]
    assert cautions(trials, KEYS, "val/neg_elbo") == [
        "1 of 7 runs are in no group, because their settings are unknown."
    ]


VERDICTS = {
    "paired over 2 common seeds): the difference is significant": [
        *(trial(2, seed, score) for seed, score in enumerate((10.0, 14.0))),
        *(trial(8, seed, score) for seed, score in enumerate((11.0, 15.01))),
    ],
    "paired over 2 common seeds): the difference is not significant": [
        *(trial(2, seed, score) for seed, score in enumerate((10.0, 12.0))),
        *(trial(8, seed, score) for seed, score in enumerate((11.0, 12.0))),
    ],
    "unpaired): the difference is significant": [
        *(trial(2, seed, score) for seed, score in enumerate((10.0, 10.5, 11.0))),
        *(trial(8, seed, score) for seed, score in enumerate((11.5, 12.0, 12.5), 3)),
    ],
    "unpaired): the difference is not significant": [
        *(trial(2, seed, score) for seed, score in enumerate((10.0, 10.5))),
        *(trial(8, seed, score) for seed, score in enumerate((10.25, 11.0), 3)),
    ],
    "One seed gives no interval": [trial(2, 0, 10.0), trial(2, 1, 12.0), trial(8, 0, 12.0)],
    "model.nlatent=2: test/neg_elbo 10.00 (one seed).": [trial(2, 0, 10.0)],
    "No completed run has test/neg_elbo.": [trial(2, 0, None, "failed")],
}


@pytest.mark.parametrize("sentence", VERDICTS)
def test_the_verdict_says_what_the_seeds_tell(sentence: str) -> None:
    text = verdict(grouped(VERDICTS[sentence], KEYS, METRIC), METRIC)
    assert sentence in text
    if len(VERDICTS[sentence]) > 1:
        assert "Best of 2: model.nlatent=2" in text


@pytest.mark.parametrize(("first", "shift"), [(0, 0), (0, 1), (0, 2), (0, 9), (1, 9)])
def test_a_difference_has_the_interval_that_scipy_has(first: int, shift: int) -> None:
    from scipy import stats

    mine, others = [10.0, 11.5, 9.0, 10.25, 12.0][first:], [11.0, 11.75, 10.5, 11.5, 14.0]
    trials = [trial(2, seed, score) for seed, score in enumerate(mine)]
    trials += [trial(8, seed + shift, score) for seed, score in enumerate(others)]
    (mean, low, high), ncommon = difference(*grouped(trials, KEYS, METRIC))
    assert ncommon == max(0, 5 - shift)
    if ncommon:
        test = stats.ttest_rel(others[: 5 - shift], mine[shift:])
        assert mean == pytest.approx(sum(others[: 5 - shift]) / ncommon - sum(mine[shift:]) / ncommon)
    else:
        test = stats.ttest_ind(others, mine, equal_var=False)
    assert (low, high) == pytest.approx(tuple(test.confidence_interval()))


def test_seeds_tell_what_overlapping_intervals_do_not() -> None:
    noise = (0.0, 3.0, -2.0, 5.0)
    trials = [trial(2, seed, 10.0 + noise[seed]) for seed in range(4)]
    trials += [trial(8, seed, 11.0 + noise[seed] + 0.1 * (seed % 2)) for seed in range(4)]
    for lowest in (True, False):
        best, second = grouped(trials, KEYS, METRIC, lowest=lowest)
        assert best.interval is not None
        assert second.mean is not None
        assert best.interval.low < second.mean < best.interval.high
        assert "the difference is significant" in verdict([best, second], METRIC)


def test_equal_values_have_no_interval_that_is_no_number() -> None:
    trials = [trial(nlatent, seed + nlatent, 1.0) for nlatent in (2, 8) for seed in range(2)]
    assert difference(*grouped(trials, KEYS, METRIC)) == ((0.0, 0.0, 0.0), 0)
    assert "is not significant" in verdict(grouped(trials, KEYS, METRIC), METRIC)


def test_results_that_do_not_compare_are_named() -> None:
    first, second = trial(2, 0, 1.0), trial(8, 0, 2.0)
    apart = [first._replace(images={"test": "ours"}), second._replace(images={"test": "others"})]
    assert "was measured on 2 sets of images" in cautions(apart, KEYS, METRIC)[1]
    assert "measured on" not in " ".join(cautions(apart, KEYS, "val/neg_elbo"))
    assert "likelihoods differ" in cautions([first, second], ["likelihood"], "val/neg_elbo")[0]
    assert cautions([first, second], KEYS, "val/neg_elbo") == []


def test_the_csv_has_a_row_for_each_run() -> None:
    failed = trial(8, 1, None, "diverged")._replace(reason="nan, at once", seconds=2.0, command="python -m x")
    lines = csv_table([trial(2, 0, 10.25), failed], KEYS).splitlines()
    assert lines == [
        "trial,status,seed,model.nlatent,test/neg_elbo,seconds,images_per_second,reason,command",
        "2/0,completed,0,2,10.25,,,,",
        '8/1,diverged,1,8,,2,,"nan, at once",python -m x',
    ]


def test_the_markdown_has_a_row_for_each_cell() -> None:
    trials = [trial(2, 0, 10.0), trial(2, 1, 12.0), trial(8, 0, None, "diverged")._replace(reason="a|b\nc")]
    lines = markdown(grouped(trials, KEYS, METRIC), trials, METRIC, ["Found."]).splitlines()
    assert lines == [
        "Found.",
        "",
        r"| model.nlatent | test/neg\_elbo | 95 % interval | seeds | runs |",
        "| --- | --- | --- | --- | --- |",
        "| 2 | 11.00 | -1.706 to 23.71 | 2 | 2 |",
        f"| 8 | {ABSENT} | {ABSENT} | 0 | 1 |",
        "",
        "1 of 3 runs have no result:",
        "",
        r"- 8/0, diverged: a\|b c",
    ]


def test_texts_stay_texts_in_a_spreadsheet_and_in_markdown() -> None:
    assert [literal(text) for text in ("=1+1", "@x", "-1", "1e-05", "-x", "a")] == [
        "'=1+1",
        "'@x",
        "-1",
        "1e-05",
        "'-x",
        "a",
    ]
    assert escaped("<b>`x`</b>\n[y](z)") == r"&lt;b&gt;\`x\`&lt;/b&gt; \[y\](z)"


def test_decimals_are_those_that_tell_something() -> None:
    assert [decimal(x) for x in (None, 88.6319, -748.886, 0.0076712, 3.0, 1e9)] == [
        ABSENT, "88.63", "-748.89", "0.007671", "3", "1e+09",
    ]  # fmt: skip

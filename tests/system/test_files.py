"""Files appear whole: whatever step a crash or a full disk hits, the old content or the new one is there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vae_lab.system.atomic import write_whole
from vae_lab.training.loggers.csv import MetricsTable


def failing(call: Callable[..., object], error: BaseException) -> Callable[..., object]:
    def fail(*args: object, **kwargs: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_the_old_file_survives_a_failure_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(os, step, failing(getattr(os, step), error))
    with pytest.raises(type(error)):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_table_grows_columns_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    table.log_metrics({"a": 1.0}, step=1)
    table.log_metrics({"b": 2.0}, step=1)
    table.log_metrics({"c": 3.0}, step=2)
    table.save()
    again = MetricsTable(path)
    again.log_metrics({"a": 4.0, "d": 5.0}, step=3)
    again.finalize("success")
    assert path.read_text().split() == ["step,a,b,c,d", "1,1.0,2.0,,", "2,,,3.0,", "3,4.0,,,5.0"]


def test_a_table_that_goes_on_replaces_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for step in (1, 2, 3):
        table.log_metrics({"a": float(step)}, step=step)
    table.finalize("success")
    again = MetricsTable(path)
    again.log_metrics({"a": 20.0}, step=2)
    again.log_metrics({"a": 40.0}, step=4)
    again.finalize("success")
    assert path.read_text().split() == ["step,a", "1,1.0", "2,20.0", "4,40.0"]


def test_a_step_has_one_row_though_lightning_saves_after_each_call(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    table = MetricsTable(path)
    for metrics, step in (
        ({"a": 1.0}, 1),
        ({"b": 2.0}, 1),
        ({"a": 1.5, "b": 20.25}, 2),
        ({"b": 3.0}, 2),
        ({"a": 4.0}, 3),
    ):
        table.log_metrics(metrics, step=step)
        table.save()
        rows = path.read_text().split()
        assert len(rows) == step + 1, "each row is on disk at once"
    table.finalize("success")
    assert path.read_text().split() == ["step,a,b", "1,1.0,2.0", "2,1.5,3.0", "3,4.0,"]

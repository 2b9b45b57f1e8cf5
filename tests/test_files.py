"""Files appear whole: whatever step a crash or a full disk hits, the old content or the new one is there."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vae_lab.files import write_whole
from vae_lab.loggers.table import MetricsTable


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
    table = MetricsTable(str(path))
    table.log_metrics({"a": 1.0}, step=1)
    table.log_metrics({"b": 2.0}, step=1)
    table.log_metrics({"c": 3.0}, step=2)
    table.save()
    again = MetricsTable(str(path))
    again.log_metrics({"a": 4.0, "d": 5.0}, step=3)
    again.finalize("success")
    assert path.read_text().split() == ["step,a,b,c,d", "1,1.0,2.0,,", "2,,,3.0,", "3,4.0,,,5.0"]

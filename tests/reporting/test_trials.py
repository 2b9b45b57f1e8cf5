"""Run folders read back, whole or damaged."""

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import make_run, make_sweep

from vae_lab.errors import DataError
from vae_lab.reporting.run_records import read_run, read_runs
from vae_lab.runs.identity import file_digest
from vae_lab.runs.listing import list_runs


def test_a_finished_run_is_read(tmp_path: Path) -> None:
    trial = read_run(make_run(tmp_path / "run", 90.0, model__nlatent=2, seed=3), "run")
    assert (trial.status, trial.reason, trial.seed) == ("completed", "", "3")
    tested = {"test/neg_elbo": 90.0, "test/rate": 10.0, "test/distortion": 80.0}
    assert trial.metrics == {"val/neg_elbo": 89.0} | tested
    assert trial.settings["model.nlatent"] == 2
    assert trial.curves["val/neg_elbo"] == ([100, 200, 300, 400, 500], [9.0, 4.5, 3.0, 2.25, 1.8])
    assert (trial.seconds, trial.images_per_second) == (12.5, 3000.0)
    assert trial.command == "python -m vae_lab.train model.nlatent=2 seed=3"


def test_a_run_without_hydras_folder_is_read_from_its_checkpoint(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = trained
    trial = read_run(folder, "run")
    assert trial.settings["data"] == "vae_lab.data.synthetic.SyntheticBlobs"
    assert trial.settings["callbacks.checkpoint.dirpath"] == "${folder}/checkpoints"
    assert trial.metrics["test/neg_elbo"] == summary["test/neg_elbo"]
    assert trial.command == ""


def test_curves_keep_their_ends_when_thinned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    rows = "".join(f"{step},{step}\n" for step in range(1, 1001))
    (run / "metrics.csv").write_text(f"step,train/loss\n{rows}")
    steps, values = read_run(run, "run", 40).curves["train/loss"]
    assert (len(steps), steps[0], steps[-1], values[-1]) == (40, 1, 1000, 1000.0)


def write_evaluation(run: Path, split: str, value: float, **protocol: object) -> None:
    """Write an evaluation of one number."""
    found = {"protocol": protocol | {"split": split}, "likelihood": {"iwae_nll": {"value": value}, "bits": None}}
    (run / f"evaluation-{split}.json").write_text(json.dumps(found))


def test_the_evaluation_of_each_split_adds_its_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    write_evaluation(run, "test", 84.5, nsamples=50)
    write_evaluation(run, "train", 80.5, nsamples=5)
    trial = read_run(run, "run")
    found = {name: value for name, value in trial.metrics.items() if name.startswith("evaluation")}
    key = "likelihood.iwae_nll.value"
    assert found == {f"evaluation-test/{key}": 84.5, f"evaluation-train/{key}": 80.5}
    assert trial.protocols["evaluation-train"] == {"nsamples": 5, "split": "train"}


def test_an_evaluation_of_weights_that_are_gone_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    now = file_digest(run / "checkpoints" / "last.ckpt")
    write_evaluation(run, "test", 84.5, checkpoint="last", weights=now)
    assert "evaluation-test/likelihood.iwae_nll.value" in read_run(run, "run").metrics
    (run / "checkpoints" / "last.ckpt").write_bytes(b"trained further")
    trial = read_run(run, "run")
    assert not trial.protocols
    assert "evaluation-test.json is for weights that differ from the checkpoint's and is ignored" in trial.reason


def test_the_command_survives_a_shell(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    overrides = ["data=folder", 'data.root="/my (1) pictures"', "name='a; rm -rf $HOME'", "x=`id`"]
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    assert shlex.split(read_run(run, "run").command) == ["python", "-m", "vae_lab.train", *overrides]


@pytest.mark.parametrize("overrides", [["a=\x1b[201~rm"], ["a=\nid"], ["a=\u202ex"], {"a": 1}, [1]])
def test_a_command_that_is_no_plain_text_is_not_shown(overrides: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    assert read_run(run, "run").command == ""
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"command": "python \x1b]0;owned\x07"}))
    assert read_run(run, "run").command == ""
    (run / "summary.json").write_text(json.dumps(summary | {"command": "python -m x"}))
    assert read_run(run, "run").command == "python -m x"


def write(name: str, content: bytes) -> Callable[[Path], object]:
    """A damage: a file with other content."""
    return lambda run: (run / name).write_bytes(content)


def running(run: Path) -> None:
    """What a kill leaves."""
    (run / "summary.json").write_text('{"status": "running", "seed": 0}')


def refused(run: Path) -> None:
    """What a wrong setting in a sweep leaves."""
    for name in ("summary.json", "metrics.csv"):
        (run / name).unlink()
    (run / "train.log").write_text(
        "2026-01-01 00:00:00,000 INFO vae_lab.training.run: go\n"
        "2026-01-01 00:00:01,000 ERROR vae_lab.cli.entry: model.nlatent must be: 1 or more.\n"
    )


def foreign(run: Path) -> None:
    """A link to somebody else's file."""
    (run.parent / "private.json").write_text('{"status": "completed", "test/neg_elbo": 1.0}')
    (run / "summary.json").unlink()
    (run / "summary.json").symlink_to(run.parent / "private.json")


def endless(run: Path) -> None:
    """A pipe, which a reader would wait for."""
    (run / "summary.json").unlink()
    os.mkfifo(run / "summary.json")


CONFIG, SUMMARY, TABLE = ".hydra/config.yaml", "summary.json", "metrics.csv"
DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "killed": (running, "running", "still running, or was killed"),
    "refused": (refused, "unfinished", "model.nlatent must be: 1 or more."),
    "killed early": (lambda run: (run / SUMMARY).unlink(), "unfinished", "before it wrote a summary"),
    "a torn summary": (write(SUMMARY, b'{"status": "comp'), "unreadable", "summary.json is damaged"),
    "an empty summary": (write(SUMMARY, b""), "unreadable", "summary.json is damaged"),
    "a summary of noise": (write(SUMMARY, bytes(range(256))), "unreadable", "summary.json is damaged"),
    "a summary that is a list": (write(SUMMARY, b"[1]"), "unreadable", "no settings or results"),
    "a summary without a status": (write(SUMMARY, b"{}"), "unreadable", ""),
    "a summary nested deeply": (write(SUMMARY, b'{"a":' * 100_000), "unreadable", "summary.json is damaged"),
    "a huge summary": (write(SUMMARY, b" " * 4_000_001), "unreadable", "larger than 4 MB"),
    "a summary that is a link": (foreign, "unfinished", "before it wrote a summary"),
    "a summary that is a pipe": (endless, "unfinished", "before it wrote a summary"),
    "a summary of other types": (
        write(SUMMARY, b'{"status": 3, "seconds": 4, "versions": [], "data": 1, "seed": [1], "test/x": "a"}'),
        "3",
        "",
    ),
    "a torn config": (write(CONFIG, b"model: {nlatent: "), "completed", "config.yaml is damaged"),
    "a config that makes objects": (
        write(CONFIG, b"a: !!python/object/apply:os.getcwd []"),
        "completed",
        "config.yaml is damaged",
    ),
    "a config nested deeply": (write(CONFIG, b"[" * 100_000), "completed", "config.yaml is damaged"),
    "a config that contains itself": (write(CONFIG, b"a: &a\n  b: *a\n"), "completed", "config.yaml is damaged"),
    "a config of a number": (write(CONFIG, b"3"), "completed", "no settings or results"),
    "no config": (lambda run: shutil.rmtree(run / ".hydra"), "completed", "its settings are unknown"),
    "no table": (lambda run: (run / TABLE).unlink(), "completed", "no metrics.csv"),
    "an empty table": (write(TABLE, b""), "completed", "no metrics.csv"),
    "a table of noise": (write(TABLE, b"\0\n" + bytes(range(256))), "completed", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_a_row_with_its_reason(name: str, tmp_path: Path) -> None:
    damage, status, reason = DAMAGES[name]
    damage(make_run(tmp_path / "runs" / "run", 90.0))
    make_run(tmp_path / "runs" / "whole", 91.0)
    trial, whole = read_runs([tmp_path / "runs"])
    assert (trial.name, trial.status) == ("run", status)
    assert reason in trial.reason
    assert (whole.status, whole.reason) == ("completed", "")


def test_the_last_row_of_a_table_may_be_torn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    (run / "metrics.csv").write_text("step,train/loss,val/neg_elbo\n50,3.0,\n100,inf,4.0\n150,2.5,1e\n200,2.")
    assert read_run(run, "run").curves == {
        "train/loss": ([50, 150, 200], [3.0, 2.5, 2.0]),
        "val/neg_elbo": ([100], [4.0]),
    }


def test_numbers_that_are_none_are_no_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90.0)
    (run / "summary.json").write_text(
        '{"status": "completed", "test/a": NaN, "test/b": Infinity, "test/c": true, "test/d": 1'
        + "0" * 400
        + ', "test/e": 2}'
    )
    assert read_run(run, "run").metrics == {"test/e": 2.0}


def test_runs_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    make_sweep(tmp_path / "day" / "sweep")
    (tmp_path / "day" / "sweep" / "summary.json").write_text('{"status": "completed"}')
    make_run(tmp_path / "day" / "single" / "deeper", 1.0)
    (tmp_path / "day" / "loop").symlink_to(tmp_path / "day")
    (tmp_path / "day" / "notes").mkdir()
    trials = read_runs([tmp_path, tmp_path / "day" / ".." / "day" / "sweep"])
    assert len(trials) == 10
    assert {trial.name for trial in trials} >= {"single/deeper", "sweep/bad", "sweep/2-0.001-0"}


def test_a_run_is_called_by_its_folder(tmp_path: Path) -> None:
    assert read_runs([make_run(tmp_path / "a" / "run", 1.0)])[0].name == "run"


@pytest.mark.parametrize(("name", "sentence"), [("nowhere", "is not a folder"), ("empty", "contains no run")])
def test_no_run_is_an_error(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    with pytest.raises(DataError, match=sentence):
        read_runs([tmp_path / name])


def test_no_folder_is_an_error() -> None:
    with pytest.raises(ValueError, match="runs= is empty"):
        read_runs([])


@contextmanager
def as_nobody() -> Iterator[None]:
    """Work as a user who, unlike root, may be kept from reading."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_what_may_not_be_read_is_left_out_or_a_row(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own is root's alone
        folder = Path(name)
        folder.chmod(0o755)
        for run in ("closed", "half", "open"):
            make_run(folder / run, 1.0)
        (folder / "closed").chmod(0)
        (folder / "half" / ".hydra").chmod(0)
        with as_nobody():
            trials = read_runs([folder])
            rows = {run.folder.name: (run.status, run.reason) for run in list_runs(folder)}
    assert [trial.name for trial in trials] == ["half", "open"]
    assert "its settings are unknown" in trials[0].reason
    assert "closed: Permission denied; it is skipped" in caplog.text
    completed = ("completed", "")
    assert rows == {"closed": ("unreadable", "Permission denied"), "half": completed, "open": completed}


def test_runs_keep_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, 1.0) for name in ("z", "a")]
    assert [trial.name for trial in read_runs(runs)] == ["z", "a"]
    assert [trial.name for trial in read_runs([tmp_path])] == ["a", "z"]

"""What `python -m vae_lab.runs ls` finds: a row for each folder, however broken, and which runs are alive."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoking import invoke
from made_runs import make_run
from sweeping import start

from vae_lab.runs.__main__ import main
from vae_lab.runs.listing import Run, inspect_run, list_runs
from vae_lab.system.locks import LOCK, hold

Make = Callable[[Path], object]
OLD = time.time() - 7200


def with_summary(content: str | bytes) -> Make:
    def make(folder: Path) -> None:
        (folder / ".hydra").mkdir(parents=True)
        (folder / "summary.json").write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def of(**entries: Any) -> Make:
    return with_summary(json.dumps({"status": "completed"} | entries))


def logged(folder: Path) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / "train.log").write_text("2026 ERROR vae_lab.cli.entry: data.root=x is not a folder.\n")


def with_folder(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "summary.json").mkdir()


def with_link(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    private = folder.parent.parent / "private.json"
    private.write_text('{"status": "completed", "name": "my secret"}')
    (folder / "summary.json").symlink_to(private)


def under_way(host: str, *, quiet: bool = False) -> Make:
    """A run whose summary says that it is running, and whose lock a process of a host had."""

    def make(folder: Path) -> None:
        of(status="running")(folder)
        if host:
            (folder / LOCK).write_text(json.dumps([os.uname().nodename if host == "this" else host, 1, "x"]))
        if quiet:
            os.utime(folder / "summary.json", (OLD, OLD))

    return make


def with_pipe(folder: Path) -> None:
    of()(folder)
    os.mkfifo(folder / LOCK)


def of_lightning(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,loss\n0,1\n")


ROWS: dict[str, tuple[Make, str, str]] = {
    "an error in its log": (logged, "unfinished", "data.root=x is not a folder."),
    "nothing": (lambda folder: (folder / ".hydra").mkdir(parents=True), "unfinished", "there is no summary.json"),
    "of Lightning": (of_lightning, "unfinished", "it is no run of vae_lab"),
    "half written": (with_summary('{"status": "comp'), "unreadable", "summary.json is damaged or cut short"),
    "empty": (with_summary(""), "unreadable", "damaged"),
    "a list": (with_summary("[1, 2]"), "unreadable", "holds no settings or results"),
    "not text": (with_summary(b"\xff\xfe\x00"), "unreadable", "damaged"),
    "nested": (with_summary("[" * 100_000), "unreadable", "damaged"),
    "too large": (with_summary(b" " * 4_000_001), "unreadable", "larger than 4 MB"),
    "of others": (with_summary('{"loss": 1}'), "unreadable", "it is no run of vae_lab"),
    "a number as status": (of(status=1), "unreadable", "has no status"),
    "a folder": (with_folder, "unfinished", "there is no summary.json"),
    "a link": (with_link, "unfinished", "there is no summary.json"),
    "a pipe as lock": (with_pipe, "completed", ""),
    "killed": (under_way("this"), "killed", "without recording why"),
    "on another host": (under_way("elsewhere"), "running", "on another host"),
    "told as killed": (of(status="killed", reason="of old"), "killed", "of old"),
    "copied without its lock": (under_way("", quiet=True), "killed", "without recording why"),
    "long dead elsewhere": (under_way("elsewhere", quiet=True), "killed", "without recording why"),
    "odd values": (
        of(name=["a"], tags="b", notes={"c": 1}, started="soon", seconds=[1], data=3, reason=4.5) , "completed", "4.5",
    ),
    "odd numbers": (
        of(**{"val/neg_elbo": float("nan"), "val/rate": True, "val/mse": "3", "val/x": 10**400}), "completed", "",
    ),
    "control characters": (of(name="a\x1b[2Jb\nc", tags=["\x07"], reason="\x1b]0;x"), "completed", r"\x1b]0;x"),
    "a date beyond all": (of(started="9999-12-31T23:59:59+00:00"), "completed", ""),
}  # fmt: skip


def printed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a successful command prints."""
    capfd.readouterr()
    assert invoke(main, "runs", *words, monkeypatch=monkeypatch) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("name", ROWS)
def test_every_folder_is_a_run_with_a_reason(name: str, tmp_path: Path) -> None:
    make, status, reason = ROWS[name]
    make(tmp_path / "outputs" / "odd")
    (run,) = list_runs(tmp_path / "outputs")
    assert (run.status, reason in run.reason) == (status, True), run


@pytest.mark.parametrize(
    "words", [("ls",), ("ls", "format=csv"), ("ls", "format=json"), ("show", "run=outputs"), ("show", "format=json")]
)
def test_every_folder_is_a_row(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (make, _, _) in ROWS.items():
        make(tmp_path / "outputs" / name)
    whole = [*words, "run=outputs"] if words[0] == "show" and len(words) == 2 else words
    text = printed(capfd, monkeypatch, *dict.fromkeys(whole))
    assert [name for name in ROWS if f"outputs/{name}" not in text] == []
    assert [mark for mark in ("\x1b", "\x07", "my secret", "Traceback") if mark in text] == []


def test_formats_agree_on_a_real_run_and_on_others(
    trained: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "real").symlink_to(trained[0])  # links are left out
    make_run(tmp_path / "outputs" / "b", 3.5, model__nlatent=2)
    record(tmp_path / "outputs" / "b", name="=SUM(1)", tags=["x", "y"], started="2026-01-02T03:04:05+00:00")
    make_run(tmp_path / "outputs" / "a", 2.5)
    make_run(tmp_path / "outputs" / "c", None, "diverged", "the loss is nan")
    assert "3 runs in outputs" in printed(capfd, monkeypatch, "ls")
    rows = json.loads(printed(capfd, monkeypatch, "ls", "format=json"))
    assert {row["folder"]: row["status"] for row in rows} == {
        "outputs/a": "completed", "outputs/b": "completed", "outputs/c": "diverged"
    }  # fmt: skip
    assert rows[-1]["folder"] == "outputs/b"  # it started first
    table = [*csv.DictReader(io.StringIO(printed(capfd, monkeypatch, "ls", "format=csv", "metric=test/rate")))]
    assert [row["folder"] for row in table] == [row["folder"] for row in rows]
    (b,) = [row for row in table if row["folder"] == "outputs/b"]
    assert (b["name"], b["tags"], float(b["test/rate"])) == ("'=SUM(1)", "x,y", 10.0)
    selected = [("tag=x",), ("tag=[x,y]",), ("status=diverged",), ("status=[diverged,killed]",), ("tag=[x,z]",)]
    found = [json.loads(printed(capfd, monkeypatch, "ls", *words, "format=json")) for words in selected]
    assert [[row["folder"][-1] for row in one] for one in found] == [["b"], ["b"], ["c"], ["c"], []]


def record(folder: Path, **entries: Any) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_run_with_a_lock_is_under_way_and_stalls(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 1.0, "running")
    with hold(folder):
        assert inspect_run(folder)[1:3] == ("running", f"process {os.getpid()} on {os.uname().nodename}")
        for path in folder.iterdir():
            os.utime(path, (OLD, OLD))
        stalled = inspect_run(folder)
        assert stalled.status == "stalled"
        assert re.search(r"has written nothing for 12\d minutes", stalled.reason)
        assert inspect_run(folder, patience=10_000.0).status == "running"
    assert inspect_run(folder).status == "killed"


def until(folder: Path, status: str, process: subprocess.Popen[str]) -> Run:
    """The run, as soon as it has a status."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        run = inspect_run(folder)
        if run.status == status and run.summary:
            return run
        time.sleep(0.2)
    raise AssertionError((folder.parent / "output.txt").read_text())


def test_a_training_process_is_alive_until_it_is_killed_and_its_run_is_not_removed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    endless = ("trainer.max_steps=100000000", "trainer.val_check_interval=1000", "logger=none", "threads=1")
    process = start("data=synthetic", "model=mlp", "name=mine", *endless, "folder=outputs/live", cwd=tmp_path)
    try:
        assert until(tmp_path / "outputs" / "live", "running", process).name == "mine"
        assert invoke(main, "runs", "rm", "mine", "yes=true", monkeypatch=monkeypatch) == 7
        assert f"it is running: process {process.pid}" in capfd.readouterr().out
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert inspect_run(tmp_path / "outputs" / "live").status == "killed"
    assert invoke(main, "runs", "rm", "status=killed", "yes=true", monkeypatch=monkeypatch) == 0
    assert not (tmp_path / "outputs" / "live").exists()


QUICKLY = """
import resource, sys
sys.argv = ["runs", "ls", "format=csv"]
from vae_lab.runs.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


def test_a_thousand_runs_are_listed_in_less_than_two_seconds_without_torch(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    text = (trained[0] / "summary.json").read_text()
    for i in range(1000):
        folder = tmp_path / "outputs" / f"{i % 30}" / f"{i}"
        (folder / ".hydra").mkdir(parents=True)
        (folder / "summary.json").write_text(text)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", QUICKLY], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1002
    assert float(lines[-1]) < 2  # of processor time, because other tests run beside this one


def test_the_root_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "runs", "ls", monkeypatch=monkeypatch) == 3
    assert "root=outputs is not a folder; name a folder of runs." in capfd.readouterr().out
    assert "0 runs in ." in printed(capfd, monkeypatch, "ls", "root=.")
    for words, sentence in {
        ("drop",): "action must be one of ls, best, show, rm, not drop",
        ("ls", "format=xml"): "format must be one of",
        ("best", "mode=best"): "mode must be one of",
        ("best", "n=0"): "n must be a whole number",
        ("ls", "stalled=0"): "stalled must",
    }.items():
        assert invoke(main, "runs", *words, "root=.", monkeypatch=monkeypatch) == 2
        assert sentence in capfd.readouterr().out

"""Sweeps: what is run, what is not run again, and what is told of the rest."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from invoking import invoke
from sweeping import LIMIT, NO_PICTURES, TINY, finish, made, sabotaged, start, summaries, times

from hydra_plugins.vae_lab_sweeper import TrialSweeper
from vae_lab.cli.entry import as_run_dir, sentence
from vae_lab.errors import SweepFailed
from vae_lab.reporting.run_records import read_run
from vae_lab.runs.folder import record
from vae_lab.sweeps.grid import complete, rows_of_grid, sweep_name
from vae_lab.sweeps.trial import Trial, digest, settle
from vae_lab.system.quoting import parse
from vae_lab.train import main
from vae_lab.training.loggers.csv import MetricsTable


def train(*arguments: str, monkeypatch: pytest.MonkeyPatch, cwd: Path) -> int:
    """The command, in this process."""
    monkeypatch.chdir(cwd)
    return invoke(main, "train", *arguments, monkeypatch=monkeypatch)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_trial_is_named_by_what_is_asked_for() -> None:
    assert digest(["a=1", "b=2"]) == digest(["b=2", "a=1", "group=x", "launcher=joblib"])
    assert len({digest(["a=1"]), digest(["a=2"]), digest(["a=1", "b=2"]), digest([])}) == 4
    assert sweep_name(["data=mnist"], ["model.nlatent", "seed"]).startswith("nlatent-seed-")
    assert sweep_name(["data=mnist"], ["seed"]) != sweep_name(["data=digits"], ["seed"])


def test_a_sweep_records_failures_goes_on_and_runs_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").touch()
    common = ("-m", *TINY, *NO_PICTURES, "logger=none", "group=mine", *sabotaged("raise", "4", 3))
    assert train(*common, "model.nlatent=2,0,4", monkeypatch=monkeypatch, cwd=tmp_path) == 7
    found = summaries(tmp_path)
    assert {key: one["status"] for key, one in found.items()} == {
        "model.nlatent=2": "completed",
        "model.nlatent=0": "failed",
        "model.nlatent=4": "failed",
    }
    assert "must be a whole number" in str(found["model.nlatent=0"]["reason"])
    assert re.search(r"^trial nlatent=0 \(\w{10}\): model.nlatent must be", capfd.readouterr().out, re.MULTILINE)
    assert str(found["model.nlatent=4"]["reason"]).startswith("sabotaged")
    assert str(found["model.nlatent=2"]["command"]).startswith("python -m vae_lab.train data=synthetic")
    (tmp_path / "bad").unlink()
    before = times(tmp_path)
    assert train(*common, "model.nlatent=2,0,4,5", monkeypatch=monkeypatch, cwd=tmp_path) == 7
    assert (
        before.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("outputs/sweeps/mine/*/*")}.items()
    )
    assert len(summaries(tmp_path)) == 4, "a sweep that grew keeps what it had"
    retry = ("hydra.sweeper.retry_failed=true", "model.nlatent=2,4,5")
    assert train(*common, *retry, monkeypatch=monkeypatch, cwd=tmp_path) == 0
    assert summaries(tmp_path)["model.nlatent=4"]["status"] == "completed"
    (attempt,) = tmp_path.glob("outputs/sweeps/mine/*/attempt-1/summary.json")
    assert json.loads(attempt.read_text())["status"] == "failed"


def test_a_trial_gives_the_weights_that_it_gives_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*TINY, *NO_PICTURES, "logger=none", "optimizer.lr=0.003")
    assert train("-m", *settings, "seed=0,1,2", monkeypatch=monkeypatch, cwd=tmp_path) == 0
    assert train(*settings, "seed=2", "folder=alone", monkeypatch=monkeypatch, cwd=tmp_path) == 0
    (folder,) = [
        path.parent
        for path in tmp_path.glob("outputs/sweeps/*/*/summary.json")
        if "seed=2" in json.loads(path.read_text())["overrides"]
    ]
    told = read_run(tmp_path / "alone", "alone").command
    assert told == shlex.join(["python", "-m", "vae_lab.train", *settings, "seed=2", "threads=1"]), (
        "no folder: a new one"
    )
    inside, alone = weights(folder), weights(tmp_path / "alone")
    assert all(torch.equal(inside[name], alone[name]) for name in alone)


@pytest.mark.parametrize("name", ["8e59810590", "0123456789", "1234567890", "2026_11_26", "1e5", "nan", "deadbeef00"])
def test_a_folder_whose_name_is_a_number_keeps_its_name(name: str) -> None:
    overrides = TrialSweeper.__new__(TrialSweeper)._job(  # Hydra has imported its module anew
        Trial(("seed=1",), Path("/sweep") / name)
    )
    (subdir,) = [text for text in overrides if text.startswith("hydra.sweep.subdir=")]
    for text in (subdir, as_run_dir(name)):
        override = parse(text)
        assert override is not None
        assert str(override.value()) == name


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    line = (
        "-m",
        *TINY,
        "trainer.max_steps=6",
        "trainer.log_every_n_steps=1",
        "model.nlatent=2,4",
        *sabotaged("kill", "4", 5),
    )
    assert finish(start(*line, cwd=tmp_path), tmp_path)[0] == -signal.SIGKILL
    (tmp_path / "bad").unlink()
    first = times(tmp_path)
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert code == 0, output
    assert "2 trials, 1 to run" in output
    assert "2 of 2 trials completed" in output
    (folder,) = {path.parent for path, when in times(tmp_path).items() if first[path] != when}
    runs = sorted(folder.glob("wandb/offline-run-*"))
    assert len(runs) == 2
    assert len({path.name.rpartition("-")[2] for path in runs}) == 1, "one trial is one W&B run"
    steps = [line.partition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert list(dict.fromkeys(steps)) == ["1", "2", "3", "4", "5", "6"]
    assert (
        finish(start(*TINY, "trainer.max_steps=6", "model.nlatent=4", "folder=alone", cwd=tmp_path), tmp_path)[0] == 0
    )
    resumed, whole = weights(folder), weights(tmp_path / "alone")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    ends = [json.loads((path / "summary.json").read_text()) for path in (folder, tmp_path / "alone")]
    assert ends[0]["test/neg_elbo"] == ends[1]["test/neg_elbo"]


def end(trial: Trial, status: str) -> None:
    trial.folder.mkdir(parents=True, exist_ok=True)
    record(trial.folder, status=status, reason="made up")


def test_those_that_died_together_are_tried_one_by_one(tmp_path: Path) -> None:
    trials, launched = made(tmp_path, 4), []

    def launch(due: Sequence[Trial]) -> None:
        launched.append(len(due))
        for trial in due:
            end(trial, "running" if len(due) > 1 or trial == trials[0] else "completed")
        raise RuntimeError("a worker died")

    with pytest.raises(SweepFailed, match=r"1 of 4 trials have no result(.|\n)*killed: its process ended"):
        complete(trials, launch, shared_fate=True)
    assert launched == [4, 1, 1, 1, 1]
    assert [settle(trial).status for trial in trials] == ["killed", *["completed"] * 3]


def test_what_a_launcher_never_began_is_launched_again(tmp_path: Path) -> None:
    trials, launched = made(tmp_path, 3), []

    def launch(due: Sequence[Trial]) -> None:
        launched.append(len(due))
        end(due[0], "running" if len(due) == 3 else "completed")
        raise RuntimeError("the first of them died")

    with pytest.raises(SweepFailed, match="1 of 3 trials"):
        complete(trials, launch, shared_fate=False)
    assert launched == [3, 2, 1]


def test_what_another_process_gives_up_is_run(tmp_path: Path) -> None:
    trials = made(tmp_path, 2)
    code = "import sys, time\nfrom pathlib import Path\nfrom vae_lab.runs.folder import record\n"
    code += "from vae_lab.system.locks import hold\n"
    code += "with hold(Path(sys.argv[1])):\n print(flush=True)\n time.sleep(2)\n"
    code += " record(Path(sys.argv[1]), status='interrupted')"
    line = [sys.executable, "-c", code, str(trials[0].folder)]
    launched: list[list[Trial]] = []

    def launch(due: Sequence[Trial]) -> None:
        launched.append(list(due))
        for trial in due:
            end(trial, "completed")

    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        complete(trials, launch, shared_fate=True)
    assert launched == [[trials[1]], [trials[0]]]


def test_a_launcher_that_can_begin_nothing_is_asked_once(tmp_path: Path) -> None:
    trials, launched = made(tmp_path, 3), []

    def launch(due: Sequence[Trial]) -> None:
        launched.append(len(due))
        raise RuntimeError("no partition")

    with pytest.raises(SweepFailed, match="missing: it did not start"):
        complete(trials, launch, shared_fate=False)
    assert launched == [3]


def test_a_worker_ends_with_its_parent() -> None:
    child = "import time\nfrom vae_lab.system.processes import end_with_parent\nend_with_parent()\n"
    child += "print('ready', flush=True)\ntime.sleep(60)"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    line = [sys.executable, "-c", parent]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        started = time.monotonic()
        assert process.stdout.read() == "", "the pipe is closed once the child has ended"
    assert time.monotonic() - started < 50


ZIPPED = {
    "pairs": (("zip=[[model.nlatent,seed]]", "model.nlatent=2,3", "seed=5,6"), [("2", "5"), ("3", "6")]),
    "pairs beside a grid": (
        ("zip=[[model.nlatent,seed]]", "model.nlatent=2,3", "optimizer.lr=1e-3,1e-4", "seed=5,6"),
        [("2", "5", "0.001"), ("2", "5", "0.0001"), ("3", "6", "0.001"), ("3", "6", "0.0001")],
    ),
    "equal values": (("zip=[[model.nlatent,seed]]", "model.nlatent=2,3", "seed=5,5"), [("2", "5"), ("3", "5")]),
    "a grid": (("zip=[]", "model.nlatent=2,3", "seed=5,6"), [("2", "5"), ("2", "6"), ("3", "5"), ("3", "6")]),
}


@pytest.mark.parametrize("name", ZIPPED)
def test_zipped_settings_change_together(name: str) -> None:
    (zipped, *typed), expected = ZIPPED[name]
    groups = [group.split(",") for group in re.findall(r"\[([\w.,]+)\]", zipped)]
    parsed = OverridesParser.create().parse_overrides(list(typed))
    rows = rows_of_grid(parsed, groups)
    assert [tuple(text.partition("=")[2] for text in row) for row in rows] == expected


@pytest.mark.parametrize(
    ("zipped", "said"),
    [
        ("[[model.nlatent,seed]]", "model.nlatent has 2, seed has 3"),
        ("[[model.nlatent,optimizer.lr]]", "model.nlatent has 2, optimizer.lr has 0"),
        ("[[model.nlatent,model.nlatent]]", "is in two groups"),
    ],
)
def test_what_cannot_be_zipped_is_refused(
    zipped: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = (f"hydra.sweeper.zip={zipped}", "model.nlatent=2,3", "seed=5,6,7")
    if "two" in said:
        typed = (f"hydra.sweeper.zip=[{zipped[1:-1]},{zipped[1:-1]}]", *typed[1:])
    assert train("-m", *TINY, *typed, monkeypatch=monkeypatch, cwd=tmp_path) == 2
    assert said in "".join(capfd.readouterr())
    assert not list(tmp_path.rglob("summary.json"))


def test_trials_are_called_by_what_is_swept_and_ranked_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typed = ("hydra.sweeper.zip=[[model.nlatent,optimizer.lr]]", "model.nlatent=2,3", "optimizer.lr=1e-9,1e-2")
    settings = (*TINY, "logger=none", "callbacks.gallery=null", "callbacks.latents=null")
    assert train("-m", *settings, *typed, monkeypatch=monkeypatch, cwd=tmp_path) == 0
    assert len(list(tmp_path.rglob("summary.json"))) == 2
    said = "".join(capfd.readouterr())
    assert "trial nlatent=2 lr=1e-09 (" in said
    assert said.count("(lower is better)") == 2
    assert "next:" not in said
    table = said.partition("val/neg_elbo  test/neg_elbo\n")[2].splitlines()[:2]
    assert [line.split()[:2] for line in table] == [["nlatent=3", "lr=0.01"], ["nlatent=2", "lr=1e-09"]]
    assert float(table[0].split()[3]) < float(table[1].split()[3])


@pytest.mark.parametrize("override", ["folder=a", "resume=a"])
def test_a_sweep_names_its_folders_itself(override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("-m", *TINY, override, "seed=0,1", monkeypatch=monkeypatch, cwd=tmp_path) == 2


def test_a_wrong_choice_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("-m", *TINY, "model.nlatnt=2,4", monkeypatch=monkeypatch, cwd=tmp_path) == 2
    assert not list(tmp_path.glob("outputs/sweeps/*/*/summary.json"))


@pytest.mark.slow
def test_ctrl_c_saves_the_trial_in_hand_and_stops_the_sweep(tmp_path: Path) -> None:
    long = ("logger=none", "trainer.max_steps=1000000", "trainer.log_every_n_steps=1")
    process = start("-m", *TINY, *NO_PICTURES, *long, "seed=0,1", cwd=tmp_path)
    deadline = time.monotonic() + LIMIT
    while not list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process, tmp_path)
    assert code == 143, output
    (summary,) = tmp_path.glob("outputs/sweeps/*/*/summary.json")
    assert json.loads(summary.read_text())["status"] == "interrupted"
    assert (summary.parent / "checkpoints" / "last.ckpt").is_file()


def test_a_table_that_goes_on_from_a_checkpoint_has_each_row_once(tmp_path: Path) -> None:
    def rows(*steps: int) -> list[str]:
        table = MetricsTable(tmp_path / "metrics.csv")
        for step in steps:
            table.log_metrics({"train/loss": step / 2}, step)
        table.save()
        return [line.partition(",")[0] for line in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]

    assert rows(1, 2, 3, 4, 5) == ["1", "2", "3", "4", "5"]
    assert rows(4, 5, 6) == ["1", "2", "3", "4", "5", "6"]
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"test/mse": 1.0}, 6)
    table.save()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 8, "a test alone takes no row away"


@pytest.mark.parametrize(("plugin", "extra"), [("ray", "ray"), ("submitit_slurm", "slurm"), ("joblib", "joblib")])
def test_a_launcher_that_is_missing_is_named_with_its_remedy(plugin: str, extra: str) -> None:
    text = f"Could not find 'hydra/launcher/{plugin}'\n\nAvailable options in 'hydra/launcher':\n\tbasic\n"
    expected = f"launcher={extra} is not installed: pip install 'vae_lab[{extra}]'."
    assert sentence(MissingConfigException(text, "x"), "train") == expected


SWEEP = """# @package _global_
group: mine
model:
  nlatent: 3
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      seed: 0,1
"""


@pytest.mark.slow
def test_the_recorded_command_of_a_sweeps_file_trains_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").write_text(SWEEP)
    added = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    assert train(*TINY, *NO_PICTURES, "logger=none", "sweep=mine", added, monkeypatch=monkeypatch, cwd=tmp_path) == 0
    for path in tmp_path.glob("outputs/sweeps/mine/*/summary.json"):
        told = shlex.split(json.loads(path.read_text())["command"])[3:]
        alone = f"alone-{path.parent.name}"
        assert train(*told, f"folder={alone}", monkeypatch=monkeypatch, cwd=tmp_path) == 0
        first, second = weights(path.parent), weights(tmp_path / alone)
        assert all(torch.equal(second[name], first[name]) for name in first)
        again = json.loads((tmp_path / alone / "summary.json").read_text())["command"]
        assert "hydra.mode=RUN" in again, "which Hydra does not count among the overrides of a run"
    assert len(list(tmp_path.glob("alone-*/checkpoints"))) == 2
    named = {json.loads(path.read_text())["trial"] for path in tmp_path.glob("outputs/sweeps/mine/*/summary.json")}
    assert named == {"seed=0", "seed=1"}, "what the file sweeps"


def test_a_swept_list_is_one_name_and_one_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [text for text in TINY if not text.startswith("model=")]
    settings += ["model=conv", "logger=wandb", "logger.wandb.mode=disabled", "model.encoder.widths=[8,8,8],[8,8,16]"]
    assert train("-m", *settings, monkeypatch=monkeypatch, cwd=tmp_path) == 0
    labels = set()
    for path in tmp_path.glob("outputs/sweeps/*/*/checkpoints/last.ckpt"):
        named = torch.load(path, weights_only=True)["hyper_parameters"]["logger"]["wandb"]
        labels.add((named["name"], *named["tags"]))
    (stored,) = tmp_path.glob("outputs/sweeps/*/multirun.yaml")
    assert f"dir: {stored.parent}\n" in stored.read_text(), "whole, for workers with other working directories"
    assert labels == {(f"widths={widths}", f"model.encoder.widths={widths}") for widths in ("[8,8,8]", "[8,8,16]")}

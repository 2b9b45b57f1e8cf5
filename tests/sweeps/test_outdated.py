"""Trials whose settings or images have changed since they were trained."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from invoking import invoke
from omegaconf import OmegaConf
from PIL import Image
from sweeping import NO_PICTURES, TINY

from vae_lab.runs.folder import record
from vae_lab.sweeps.trial import Trial, config_flags, digest
from vae_lab.system.config_dir import CONF
from vae_lab.train import main

MINE = """# @package _global_
optimizer:
  lr: {lr}
callbacks:
  checkpoint:
    dirpath: ${{hydra:runtime.output_dir}}/checkpoints
"""


def write_experiment(folder: Path, lr: float) -> None:
    """Write conf/experiment/mine.yaml with a learning rate."""
    (folder / "conf" / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "conf" / "experiment" / "mine.yaml").write_text(MINE.format(lr=lr))


def write_pictures(folder: Path, first: int, last: int) -> None:
    """Write pictures of one grey each."""
    folder.mkdir(exist_ok=True)
    for i in range(first, last):
        Image.new("L", (16, 16), 3 * i).save(folder / f"{i}.png")


def found(cwd: Path) -> list[dict[str, Any]]:
    """The summaries of the trials of all sweeps."""
    return [json.loads(path.read_text()) for path in sorted(cwd.glob("outputs/sweeps/*/*/summary.json"))]


def rates(cwd: Path) -> list[float]:
    """The learning rates that the trials were trained with."""
    import torch

    paths = sorted(cwd.glob("outputs/sweeps/*/*/checkpoints/last.ckpt"))
    return [torch.load(path, weights_only=True)["hyper_parameters"]["optimizer"]["lr"] for path in paths]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs a sweep, in this process, and returns the exit code."""
    monkeypatch.chdir(tmp_path)
    common = ("--config-dir", "conf", "-m", *TINY, *NO_PICTURES, "logger=none")
    return lambda *swept: invoke(main, "train", *common, *swept, monkeypatch=monkeypatch)


@pytest.mark.slow
def test_trials_of_an_experiment_that_was_edited_are_trained_anew(
    sweep: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_experiment(tmp_path, 1e-3)
    assert sweep("experiment=mine", "seed=0,1") == 0
    before = found(tmp_path)
    write_experiment(tmp_path, 5e-2)
    assert sweep("experiment=mine", "seed=0,1,2") == 0
    assert rates(tmp_path) == [5e-2] * 3, "a sweep that grew holds no trial of the old settings"
    assert len({one["identity"] for one in found(tmp_path)}) == 3
    kept = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/sweeps/*/*/attempt-1/summary.json"))]
    assert kept == before
    printed = capfd.readouterr().out
    assert printed.count("was made with other settings: optimizer.lr=0.001 (here 0.05); that is kept in") == 2
    assert sweep("experiment=mine", "seed=0,1,2") == 0
    assert "3 trials, 0 to run" in capfd.readouterr().out


def test_the_recorded_command_of_a_trial_finds_its_configs_and_the_best_is_told(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_experiment(tmp_path, 1e-3)
    assert sweep("experiment=mine", "model.nlatent=2,3") == 0
    printed = capfd.readouterr().out
    assert re.search(
        r"Best of 2: model.nlatent=\d with val/neg_elbo \S+ \(one seed\), test/neg_elbo \S+; lower is", printed
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    told = found(tmp_path)[0]["command"]
    words = shlex.split(told)
    assert words[:5] == ["python", "-m", "vae_lab.train", "--config-dir", str(tmp_path / "conf")]
    assert invoke(main, "train", *words[3:], "folder=alone", monkeypatch=monkeypatch) == 0
    again = json.loads((tmp_path / "elsewhere" / "alone" / "summary.json").read_text())
    assert again["test/neg_elbo"] == found(tmp_path)[0]["test/neg_elbo"]
    assert again["command"].startswith(" ".join(words[:5]))


FLAGS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing": ({}, []),
    "a folder": ({"sources": [("command-line", "/a")]}, ["--config-dir", "/a"]),
    "another main folder": ({"sources": [("main", "/b")]}, ["--config-path", "/b"]),
    "our own folder": ({"sources": [("main", str(CONF))]}, []),
    "a name": ({"name": "mine"}, ["--config-name", "mine"]),
    "a search path": (
        {"searchpath": ["file:///a", "pkg://b.c", "d", "file://e"]},
        [f"hydra.searchpath=[file:///a,pkg://b.c,file://{Path.cwd()}/d,file://{Path.cwd()}/e]"],
    ),
}


@pytest.mark.parametrize("name", FLAGS)
def test_where_configs_come_from_is_a_part_of_the_command(name: str) -> None:
    given, expected = FLAGS[name]
    sources = [{"provider": key, "path": path, "schema": "file"} for key, path in given.get("sources", [])]
    job = {"config_name": given.get("name", "train")}
    parts = {"runtime": {"config_sources": sources}, "job": job, "searchpath": given.get("searchpath", [])}
    assert list(config_flags(OmegaConf.create(parts), "train")) == expected


def test_trials_of_a_folder_with_new_pictures_are_trained_anew(
    sweep: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf").mkdir()
    write_pictures(tmp_path / "pics", 0, 40)
    line = ("data=folder", "data.root=pics", "data.channels=1", "data.image_size=16", "data.batch_size=8", "seed=0")
    assert sweep(*line) == 0
    write_pictures(tmp_path / "pics", 40, 50)
    assert sweep(*line) == 0
    assert [one["data"]["ntrain"] for one in found(tmp_path)] == [40]
    assert capfd.readouterr().out.count("was made with other images; that is kept in") == 1
    shutil.move(tmp_path / "pics", tmp_path / "away")
    assert sweep(*line) == 0
    printed = capfd.readouterr().out
    assert "1 trials, 0 to run" in printed
    assert "the images cannot be compared with those of finished trials" in printed


@pytest.mark.parametrize("status", ["completed", "failed", "diverged", "killed", "interrupted", "running"])
def test_whatever_its_end_a_trial_of_other_settings_is_to_be_run(status: str, tmp_path: Path) -> None:
    trial = Trial(("a=1",), tmp_path / digest(["a=1"]), identity="now", images="seen")
    record(trial.folder, status=status, identity="before")
    assert (trial.state().status, trial.is_hole()) == ("outdated", True)
    record(trial.folder, status="completed", identity="now")
    assert not trial.is_hole(), "what left no images is judged by its settings"
    record(trial.folder, data={"ntrain": 3})
    assert (trial.state().status, trial.is_hole()) == ("outdated", True)


def test_a_failed_trial_whose_setting_was_put_right_is_trained(sweep: Any, tmp_path: Path) -> None:
    write_experiment(tmp_path, -1.0)
    assert sweep("experiment=mine", "seed=0") == 7
    write_experiment(tmp_path, 1e-3)
    assert sweep("experiment=mine", "seed=0") == 0
    assert [one["status"] for one in found(tmp_path)] == ["completed"]

"""The command lines: what they print, and the exit code they end with."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from invoking import invoke, vae_lab
from sweeping import LIMIT, NO_PICTURES

from vae_lab.train import main

TINY = ("data=synthetic", "trainer.max_steps=4", "trainer.val_check_interval=2", "logger=none")
PATIENCE = 30.0  # seconds of the processor, which a busy machine has not many more of; a quiet one takes under 10

BAD = {
    "no latents": (("model.nlatent=0",), 2, "model.nlatent must be a whole number of at least 1, not 0"),
    "half a latent": (("model.nlatent=1.5",), 2, "model.nlatent"),
    "a misspelt key": (("model.nlatnt=2",), 2, "There is no setting model.nlatnt; did you mean model.nlatent?"),
    "a key of another choice": (
        ("model=ladder_mlp", "model.encoder.widths=[1]"),
        2,
        "There is no setting model.encoder.widths with the other choices; add --cfg job to list the settings.",
    ),
    "a part of a key": (("optimizer={rl: 1}",), 2, "There is no setting optimizer.rl; +optimizer.rl=… adds it"),
    "an unknown data set": (("data=mnits",), 2, "Could not find 'data/mnits'; choose one of digits, fashion_mnist"),
    "a batch of none": (("data=synthetic", "data.batch_size=0"), 2, "data.batch_size must be a whole number"),
    "no such folder": (("data=monet", "data.root=/nowhere"), 3, "/nowhere"),
    "no such data": (("data=mnist", "data.root=/nowhere", "data.download=false"), 3, "data=digits"),
    "an empty folder": (("data=folder", "data.root=empty"), 3, "empty"),
    "an unset folder": (("data=folder",), 3, "data.root="),
    "a wrong W&B mode": ((*TINY, "logger=wandb", "logger.wandb.mode=maybe"), 2, "maybe"),
    "a wrong argument": ((*TINY, "+model.depth=3"), 2, "depth"),
    "a wrong argument of Lightning's": ((*TINY, "+trainer.depth=3"), 2, "depth"),
    "a precision that is none": ((*TINY, "trainer.precision=17"), 2, "trainer.precision=17"),
    "no device": ((*TINY, "trainer.devices=0"), 2, "trainer.devices=0"),
    "no such device": ((*TINY, "trainer.accelerator=gpu"), 2, "gpu"),
    "a learning rate below 0": ((*TINY, "optimizer.lr=-1"), 2, "optimizer: Invalid learning rate: -1"),
    "a learning rate of letters": ((*TINY, "optimizer.lr=abc"), 2, "optimizer:"),
    "no test images": (("data.ntest=0",), 2, "data.ntest must be a whole number of at least 1, not 0"),
    "a path with blanks and signs": (("data=folder", "data.root=/my (1) π"), 3, "/my (1) π does not exist"),
    "a value to be quoted": (("data=folder", "data.root=[/my (1) pictures"), 2, "'data.root=\"[/my (1) pictures\"'"),
    "a comma": ((*TINY, "group=a,b"), 2, "group=a,b is a sweep: add -m to run it, or type 'group=\"a,b\"' for"),
    "a folder in use": ((*TINY, "folder=used"), 2, "already holds a run"),
}  # fmt: skip


def check_bad_input(name: str, code: int, output: str) -> None:
    _, expected, sentence = BAD[name]
    assert code == expected, output
    assert sentence in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) == 1, output


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"half a latent"}))  # which the tests' type checks find first
def test_bad_input_ends_in_one_sentence_and_its_code(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "summary.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    code = invoke(main, "train", *BAD[name][0], monkeypatch=monkeypatch)
    printed = "".join(capfd.readouterr()) or caplog.text.partition("entry.py:")[2].partition(" ")[2]
    check_bad_input(name, code, printed)


def test_a_group_of_another_command_is_not_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from vae_lab.profile import main as profile

    monkeypatch.chdir(tmp_path)
    assert invoke(profile, "profile", "task=vaegan", monkeypatch=monkeypatch) == 2
    printed = capfd.readouterr().out or caplog.text
    assert printed.endswith("There is no setting task; --cfg job lists all settings.\n")


@pytest.mark.parametrize(
    "name",
    ["half a latent", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a misspelt key", "no such folder"))],
)
def test_a_user_learns_of_bad_input_in_seconds(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = vae_lab("train", *BAD[name][0], cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    check_bad_input(name, done.returncode, done.stdout + done.stderr)
    assert seconds < PATIENCE


def test_help_and_config_do_not_wait_for_torch(tmp_path: Path) -> None:
    for argument in ("--help", "--cfg=job"):
        code = (
            f"import runpy, sys\nsys.argv = ['', '{argument}']\nrunpy.run_module('vae_lab.train', run_name='__main__')"
        )
        check = f"import atexit, sys\natexit.register(lambda: print('torch' in sys.modules))\n{code}"
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-c", check],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env,
            timeout=LIMIT,
            check=False,
        )
        assert done.stdout.strip().endswith("False"), done.stdout + done.stderr
        assert "nlatent" in done.stdout


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "vae_lab.train", "--cfg=hydra", "--package=hydra.run", "--resolve"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = [process.communicate(timeout=LIMIT)[0] for process in processes]
    assert all("dir: outputs/" in folder for folder in folders)
    assert len(set(folders)) == len(folders)


@pytest.mark.slow
def test_a_sweep_is_one_group_of_runs_in_folders_of_their_own(tmp_path: Path) -> None:
    arguments = ("data=synthetic", "trainer.max_steps=2", "model.nlatent=2,0,8")
    done = vae_lab("train", "-m", *arguments, cwd=tmp_path)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "model.nlatent must be" in done.stdout
    folders = [path.parent for path in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert len(folders) == 3
    files = list(tmp_path.glob("outputs/*/*/*/wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    groups, names = set(), set()
    for file in files:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
        groups.add(lines.partition('"run_group":"')[2].partition('"')[0])
        names.add(lines.partition('"display_name":"')[2].partition('"')[0])
        assert '"tags":["model.nlatent=' in lines
    assert groups == {folders[0].parent.name}
    assert names == {"nlatent=2", "nlatent=8"}


@pytest.mark.slow
def test_a_run_without_key_or_network_is_quiet(tmp_path: Path) -> None:
    done = vae_lab("train", "data=synthetic", "trainer.max_steps=4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert len(said) == 8, done.stdout
    assert said[0].startswith("training 322,129 parameters on SyntheticBlobs (48 images of 1x16x16): ")
    folder = r"outputs/[\d-]+/[\w-]+"
    python = "python" if shutil.which("python") == sys.executable else re.escape(sys.executable)
    expected = [
        f"W&B was offline; upload this run with: wandb sync .*/{folder}/wandb/offline-run-.*",
        r"test/sse_kl \d+\.\d\d \(lower is better\): squared error \+ KL of an image",
        rf"ended by trainer\.max_steps=4 after 4 steps, \d+ images/s, run folder {folder}",
        rf"pictures: {folder}/figures/"
        r"curves\.png, latents\.png, map\.png, reconstructions\.png, samples\.png, traversals\.png",
        rf"next: {python} -m vae_lab\.generate run={folder}, or evaluate, which writes a page",
    ]
    for line, pattern in zip(said[-5:], expected, strict=True):
        assert re.fullmatch(pattern, line), done.stdout


@pytest.mark.slow
def test_a_key_without_a_network_does_not_stop_a_run(tmp_path: Path) -> None:
    unreachable = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = vae_lab("train", *TINY, "logger=wandb", "logger.wandb.timeout=2", cwd=tmp_path, **unreachable)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continuing offline" in done.stdout


def test_ctrl_c_saves_and_says_so(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "WANDB_MODE": "offline"}
    arguments = [
        "data=synthetic",
        "model=mlp",
        "trainer.max_steps=1000000",
        "trainer.log_every_n_steps=1",
        "folder=run",
    ]
    line = [sys.executable, "-m", "vae_lab.train", *arguments, *NO_PICTURES, "logger=none"]
    process = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    table = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + LIMIT
    while not table.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, output
    assert '"status": "interrupted"' in (tmp_path / "run" / "summary.json").read_text()
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_a_folder_that_cannot_be_written_is_found_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "train", *TINY, "folder=file/run", monkeypatch=monkeypatch) == 5
    assert "run cannot be written: Not a directory." in "".join(capfd.readouterr()) + caplog.text


PLACES = {"folder": "folder=mine", "quoted": "folder='my run'", "by a reference": "folder=seed-${seed}"}


@pytest.mark.parametrize("name", PLACES)
def test_all_that_a_run_writes_lies_in_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (*TINY, "model=mlp", *NO_PICTURES, PLACES[name])
    assert invoke(main, "train", *arguments, monkeypatch=monkeypatch) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == {"folder": "mine", "quoted": "my run", "by a reference": "seed-0"}[name]
    assert {".hydra", "train.log", "summary.json", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert "hydra.run.dir" not in json.loads((folder / "summary.json").read_text())["command"]


@pytest.mark.parametrize(
    "settings", [("folder=a", "hydra.run.dir=b"), ("folder=null",), ("sweep=latents_by_lr", "folder=a")]
)
def test_a_folder_is_named_once(settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "train", *TINY, *settings, monkeypatch=monkeypatch) == 2


@pytest.mark.slow
def test_a_finished_run_is_generated_from_and_evaluated(trained: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "run")
    run_folder = "run=run"
    done = vae_lab("generate", run_folder, "n=4", "sampler=gmm", "out=samples.png", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 images from" in done.stdout
    assert (tmp_path / "samples.png").stat().st_size > 500
    sizes = ("nsamples=10", "nll_images=4", "ngenerated=8", "ngroups=2", "k=2", "features=vgg", "out=evaluated")
    done = vae_lab("evaluate", run_folder, *sizes, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "the full protocol is nsamples=5000" in done.stdout
    assert "KID_vgg" in done.stdout
    assert sorted(path.name for path in (tmp_path / "evaluated").iterdir()) == [
        "evaluation-test.html",
        "evaluation-test.json",
    ]
    done = vae_lab("evaluate", "run=nowhere", cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "there is no checkpoint" in done.stdout
    assert len(done.stdout.splitlines()) == 1

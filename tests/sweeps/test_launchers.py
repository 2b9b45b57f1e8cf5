"""Launchers that run trials in processes of their own, on this machine, with real trials."""

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest
from sweeping import LIMIT, TINY, finish, sabotaged, start, summaries, times

PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "slurm_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}


def require(launcher: str) -> None:
    if importlib.util.find_spec(PLUGINS[launcher]) is None:
        pytest.skip(f"launcher={launcher} is not installed: pip install 'vae_lab[{launcher.removesuffix('_local')}]'")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", PLUGINS)
def test_a_trial_that_is_killed_spares_the_others_and_is_made_up_for(launcher: str, tmp_path: Path) -> None:
    require(launcher)
    (tmp_path / "bad").touch()
    swept = ("model.nlatent=2,0,4,8", "logger=wandb", f"launcher={launcher}")
    line = ("-m", *TINY, "trainer.max_steps=6", *swept, *sabotaged("kill", "4", 5))
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert code == 7, output
    found = {key.removeprefix("model.nlatent="): one["status"] for key, one in summaries(tmp_path).items()}
    assert found == {"2": "completed", "0": "failed", "4": "killed", "8": "completed"}, output
    assert "2 of 4 trials completed" in output
    if launcher == "joblib":  # the others write to files of their own
        assert "nlatent=8: step 6: val/neg_elbo" in output, "the lines of trials side by side name them"
    (tmp_path / "bad").unlink()
    before = times(tmp_path)
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert code == 7, output
    assert "4 trials, 1 to run" in output
    assert sum(when != before[path] for path, when in times(tmp_path).items()) == 1
    assert summaries(tmp_path)["model.nlatent=4"]["status"] == "completed"
    runs = [path.name.rpartition("-")[2] for path in tmp_path.glob("outputs/sweeps/*/*/wandb/offline-run-*")]
    assert len(set(runs)) == 3, "each trial that got so far has one W&B run"


@pytest.mark.slow
def test_a_signal_reaches_the_trials_in_other_processes(tmp_path: Path) -> None:
    require("slurm_local")
    settings = (
        "trainer.max_steps=1000000",
        "trainer.log_every_n_steps=1",
        "logger=none",
        "launcher=slurm_local",
        "seed=0,1",
    )
    process = start("-m", *TINY, *settings, cwd=tmp_path)
    deadline = time.monotonic() + LIMIT
    while len(list(tmp_path.glob("outputs/sweeps/*/*/metrics.csv"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    code, output = finish(process, tmp_path)
    assert code == 143, output
    ends = [json.loads(path.read_text())["status"] for path in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert ends == ["interrupted"] * 2
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/checkpoints/last.ckpt"))) == 2


def nrows(folder: Path) -> int:
    """Batches that all trials of a folder have logged."""
    return sum(path.read_text().count("\n") for path in folder.glob("outputs/sweeps/*/*/metrics.csv"))


@pytest.mark.slow
def test_a_driver_killed_again_and_again_leaves_nothing_undone_and_nothing_done_twice(tmp_path: Path) -> None:
    require("joblib")
    settings = (
        "logger=none",
        "trainer.max_steps=60",
        "trainer.val_check_interval=20",
        "trainer.log_every_n_steps=1",
        "seed=0,1,2,3",
    )
    line = ("-m", *TINY, *settings, "launcher=joblib", "hydra.launcher.n_jobs=2")
    killed = 0
    for progress in (5, 70, 150, 10_000):
        process = start(*line, cwd=tmp_path)
        while process.poll() is None and nrows(tmp_path) < progress:
            time.sleep(0.01)
        process.kill()
        code, output = finish(process, tmp_path)
        killed += code == -signal.SIGKILL
        if code == 0:
            break
    assert killed >= 2, "the test is to kill it in the middle"
    assert code == 0, output
    assert "4 of 4 trials completed" in output
    for path in tmp_path.glob("outputs/sweeps/*/*/metrics.csv"):
        steps = [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]
        assert list(dict.fromkeys(steps)) == [str(step + 1) for step in range(60)]
        assert len(steps) <= 64, "a row for each batch, and one for the test"
    before = times(tmp_path)
    assert finish(start(*line, cwd=tmp_path), tmp_path)[0] == 0
    assert times(tmp_path) == before


@pytest.mark.slow
def test_a_grid_on_mnist_of_which_one_raises_one_diverges_and_one_is_killed(tmp_path: Path, shared: Path) -> None:
    require("slurm_local")
    (tmp_path / "bad").touch()
    here = "'${model.nlatent} ${optimizer.lr} ${seed}'"
    settings = (
        "data=mnist",
        f"data.root={shared}",
        "model=mlp",
        "trainer.max_steps=40",
        "trainer.val_check_interval=20",
    )
    settings += ("trainer.log_every_n_steps=10", "callbacks.latents.nimages=100", "launcher=slurm_local", "group=grid")
    settings += tuple(sabotaged("raise", "'2 0.0005 0'", 30, here) + sabotaged("diverge", "'2 0.001 1'", 25, here))
    settings += tuple(sabotaged("kill", "'8 0.0005 2'", 30, here))
    line = ("-m", *settings, "model.nlatent=2,8", "optimizer.lr=5e-4,1e-3", "seed=0,1,2")
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert code == 7, output
    ends = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/grid/*/summary.json")]
    assert sorted(end["status"] for end in ends) == ["completed"] * 9 + ["diverged", "failed", "killed"]
    assert all(end["reason"] for end in ends if end["status"] != "completed")
    (tmp_path / "bad").unlink()
    before = times(tmp_path)
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert (code, "12 trials, 1 to run" in output) == (7, True), output
    assert sum(when != before[path] for path, when in times(tmp_path).items()) == 1
    code, output = finish(start(*line, "hydra.sweeper.retry_failed=true", cwd=tmp_path), tmp_path)
    assert (code, "12 of 12 trials completed" in output) == (0, True), output
    runs = {path.name.rpartition("-")[2] for path in tmp_path.glob("outputs/sweeps/grid/*/wandb/offline-run-*")}
    assert len(runs) == 14, "a retried failure is another W&B run, a continued trial is not"

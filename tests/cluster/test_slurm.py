"""Trials as jobs of a real Slurm; `make cluster` starts one and runs these."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from sweeping import LIMIT, TINY, finish, sabotaged, start, summaries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SLURM_CONF" not in os.environ, reason="there is no Slurm: make cluster starts one"),
]
SLURM = ("launcher=slurm", "logger=none", "hydra.launcher.array_parallelism=2")


def test_an_array_of_trials_one_of_which_is_killed(tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    line = ("-m", *TINY, *SLURM, "model.nlatent=2,0,4,8", *sabotaged("kill", "4", 3))
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert code == 7, output
    found = {key.removeprefix("model.nlatent="): one["status"] for key, one in summaries(tmp_path).items()}
    assert found == {"2": "completed", "0": "failed", "4": "killed", "8": "completed"}, output
    (tmp_path / "bad").unlink()
    code, output = finish(start(*line, cwd=tmp_path), tmp_path)
    assert "4 trials, 1 to run" in output
    assert summaries(tmp_path)["model.nlatent=4"]["status"] == "completed", output


@pytest.mark.parametrize("how", ["submitit", "slurm"])
def test_a_trial_that_is_preempted_goes_on(how: str, tmp_path: Path) -> None:
    settings = ("trainer.max_steps=400", "trainer.val_check_interval=20", "trainer.log_every_n_steps=1", "seed=0")
    process = start("-m", *TINY, *SLURM, *settings, cwd=tmp_path)
    deadline = time.monotonic() + LIMIT
    while not list(tmp_path.glob("outputs/sweeps/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    jobs = subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True).stdout
    (job,) = jobs.split()
    preempt = ["scancel", "--signal=USR2", job] if how == "submitit" else ["scontrol", "requeue", job]
    subprocess.run(preempt, check=True)
    code, output = finish(process, tmp_path)
    assert code == 0, output
    (folder,) = (path.parent for path in tmp_path.glob("outputs/sweeps/*/*/summary.json"))
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("completed", 400)
    lines = [line for line in (folder / "train.log").read_text().splitlines() if " batch " in line]
    firsts = [int(line.partition(" batch ")[2].partition(":")[0]) for line in lines if ": val/" in line]
    assert sum(step == 20 for step in firsts) == 1, "it went on from its checkpoint"
    assert (folder / "train.log").read_text().count("training 1,3") == 2


def test_tasks_of_a_step_train_one_model(tmp_path: Path) -> None:
    settings = ("data.batch_size=8", "logger=none", "+callbacks.witness._target_=sabotage.Witness")
    srun = ("srun", "--nodes=1", "--ntasks-per-node=2")
    code, output = finish(start(*TINY, *settings, cwd=tmp_path, before=srun), tmp_path)
    assert code == 0, output
    (folder,) = (path.parent for path in tmp_path.glob("outputs/*/*/summary.json"))
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1
    assert json.loads((folder / "summary.json").read_text())["devices"] == 2
    first, second = ((tmp_path / f"witness-{rank}.json").read_text() for rank in range(2))
    assert json.loads(first)["digest"] == json.loads(second)["digest"]

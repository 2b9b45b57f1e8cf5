"""How many threads a process computes with: who decides, what is measured, and where the number goes."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import threadpoolctl
import torch
from invoking import invoke
from omegaconf import DictConfig, OmegaConf
from sweeping import LIMIT, NO_PICTURES

from vae_lab import detect, evaluate, generate, profile, tune
from vae_lab import train as training
from vae_lab.sweeps.launchers import settle_trial_threads
from vae_lab.sweeps.trial import digest, with_threads
from vae_lab.system.threads import (
    AUTO,
    EXPORTED,
    OMP,
    Measured,
    Threads,
    allowed_cores,
    choose_threads,
    decide_threads,
    keep_threads,
    kept_threads,
    measured_threads,
    use_threads,
)
from vae_lab.training.distributed.launch import worker_settings
from vae_lab.training.run import train_run

PACKAGE = Path(__file__).parents[2] / "vae_lab"
TINY = (
    "data=synthetic",
    "model=mlp",
    "model.encoder.width=8",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    *NO_PICTURES,
    "logger=none",
)
MAINS = {
    name: module.main
    for name, module in {
        "train": training,
        "tune": tune,
        "generate": generate,
        "evaluate": evaluate,
        "detect": detect,
        "profile": profile,
    }.items()
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave environment and libraries as the other tests have them."""
    for name in EXPORTED:
        monkeypatch.setenv(name, "1")
    with threadpoolctl.threadpool_limits(1):
        yield
    torch.set_num_threads(1)


WINS: dict[str, tuple[int | str, int | None, str | None, Threads, str]] = {
    "nobody has decided": (AUTO, None, None, Threads(7, "auto"), ""),
    "typed": (3, None, "5", Threads(3, "as set"), ""),
    "OMP_NUM_THREADS": (AUTO, None, "5", Threads(5, OMP), ""),
    "OMP_NUM_THREADS of nested regions": (AUTO, None, "5,2", Threads(5, OMP), ""),
    "OMP_NUM_THREADS is no number": (AUTO, None, "many", Threads(7, "auto"), ""),
    "OMP_NUM_THREADS is 0": (AUTO, None, "0", Threads(7, "auto"), ""),
    "what goes on": (AUTO, 4, None, Threads(4, "as before"), ""),
    "what goes on, and OMP_NUM_THREADS agrees": (AUTO, 4, "4", Threads(4, "as before"), ""),
    "what goes on, and OMP_NUM_THREADS differs": (
        AUTO,
        4,
        "1",
        Threads(4, "as before"),
        "OMP_NUM_THREADS=1 is ignored",
    ),
    "typed, and what goes on agrees": (4, 4, None, Threads(4, "as set"), ""),
    "typed, and what goes on differs": (
        3,
        4,
        None,
        Threads(3, "as set"),
        "threads=3 instead of 4 as before: results may differ",
    ),
}


@pytest.mark.parametrize("name", WINS)
def test_one_of_those_who_say_a_number_wins(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setting, kept, variable, expected, warning = WINS[name]
    if variable is None:
        monkeypatch.delenv(OMP)
    else:
        monkeypatch.setenv(OMP, variable)
    assert decide_threads(setting, lambda: Threads(7, "auto"), kept) == expected
    assert (warning in caplog.text) if warning else not caplog.text


@pytest.mark.parametrize(
    ("measured", "number", "reason"),
    [
        (Measured(1.0e-3, 0.6e-3, 0.97), 2, "a convolution took 1.00 ms with one thread, 0.60 ms with 2"),
        (Measured(1.0e-3, 1.1e-3, 0.97), 1, "a convolution took 1.00 ms with one thread, 1.10 ms with 2"),
        (Measured(1.0e-3, 15.5e-3, 0.40), 1, "2 threads got 0.8 of 2 cores"),
        (Measured(1.0e-3, 0.6e-3, 0.75), 1, "2 threads got 1.5 of 2 cores"),  # they were just lucky
    ],
)
def test_all_threads_win_if_they_are_faster_on_cores_of_their_own(measured: Measured, number: int, reason: str) -> None:
    assert choose_threads(measured, 2) == Threads(number, f"auto: {reason}")


def test_one_thread_wins_where_other_processes_are_busy() -> None:
    loop = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(2 * allowed_cores())]
    try:
        assert measured_threads(max(2, allowed_cores())).number == 1
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_one_core_is_not_measured() -> None:
    assert measured_threads(1).number == measured_threads(0).number == 1


def test_processes_started_side_by_side_do_not_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert measured_threads(64).number == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    assert measured_threads(64).number == 8


def test_the_number_holds_for_torch_for_numpy_and_for_processes_started_later() -> None:
    np.linalg.norm(np.eye(2) @ np.eye(2))  # its library is loaded
    use_threads(2)
    assert torch.get_num_threads() == 2
    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    assert pools
    assert set(pools) == {2}
    line = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    assert subprocess.run(line, capture_output=True, text=True, check=True, timeout=LIMIT).stdout == "2\n"


def test_more_threads_than_cores_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    use_threads(1, nprocesses=1000)
    assert not caplog.text
    use_threads(allowed_cores() + 1)
    assert f"threads={allowed_cores() + 1} is more than the {allowed_cores()} cores" in caplog.text
    caplog.clear()
    use_threads(2, nprocesses=allowed_cores())
    assert allowed_cores() == 1 or f"threads=2 in each of {allowed_cores()} processes" in caplog.text


def test_cores_are_those_that_affinity_leaves() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from vae_lab.system.threads import allowed_cores; print(allowed_cores())"
    env = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_one_function_owns_how_many_cores_there_are() -> None:
    counts = re.compile(r"cpu_count\(|sched_getaffinity|process_cpu_count|set_num_threads")
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if counts.search(path.read_text())}
    assert found == {"system/threads.py"}


BAD = [("train", value) for value in ("-1", "1.5", "many", "true", "null")] + [(command, "0") for command in MAINS]


@pytest.mark.parametrize(("command", "value"), BAD)
def test_a_number_that_is_none_ends_in_one_sentence(
    command: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = {"generate": ["run=run"], "evaluate": ["run=run"], "detect": ["run=run", "images=images"]}
    arguments = [*needed.get(command, []), f"threads={value}"]
    assert invoke(MAINS[command], command, *arguments, monkeypatch=monkeypatch) == 2
    said = "".join(capfd.readouterr())
    assert re.fullmatch(r"threads=\S+: choose auto, or a whole number of at least 1\.\n", said), said


def test_a_wrong_number_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import atexit, runpy, sys\natexit.register(lambda: print('torch' in sys.modules))\n"
    code += "sys.argv[1:] = sys.argv[1:]\nrunpy.run_module('vae_lab.train', run_name='__main__')"
    env = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    for arguments in (["threads=0"], ["-m", "threads=0", "seed=0,1"]):
        line = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stdout.endswith("choose auto, or a whole number of at least 1.\nFalse\n"), done.stdout


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def stored(folder: Path) -> Any:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]["threads"]


def test_a_run_says_stores_and_repeats_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        assert invoke(training.main, "train", *TINY, *arguments, monkeypatch=monkeypatch) == 0
        return capfd.readouterr().out

    assert ", 2 threads, " in run("threads=2", "folder=two").splitlines()[0]
    assert (summary(Path("two"))["threads"], stored(Path("two"))) == (2, 2)
    typed = ["python", "-m", "vae_lab.train", *TINY, "threads=2"]
    assert summary(Path("two"))["command"] == shlex.join(typed)
    monkeypatch.setenv(OMP, "1")
    assert ", 1 threads, " in run("folder=one").splitlines()[0]
    assert (summary(Path("one"))["threads"], stored(Path("one"))) == (1, 1)
    assert summary(Path("one"))["command"].endswith(" logger=none threads=1")
    assert summary(Path("one"))["overrides"] == list(TINY), "what was typed"
    said = run("resume=two", "trainer.max_steps=3", "folder=further")
    assert "threads=2 (as before)" in said
    assert "OMP_NUM_THREADS=1 is ignored: the run began with threads=2" in said
    assert summary(Path("further"))["threads"] == 2
    said = run("resume=two", "trainer.max_steps=3", "folder=otherwise", "threads=1")
    assert "threads=1 instead of 2 as before: results may differ in their last bits" in said
    assert summary(Path("otherwise"))["threads"] == 1


def test_what_was_measured_is_the_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(OMP)
    assert invoke(training.main, "train", *TINY, "folder=run", monkeypatch=monkeypatch) == 0
    first = capfd.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"threads=\d+ \(auto: .*\)", first)
    number = summary(Path("run"))["threads"]
    assert first.startswith(f"threads={number} ")
    assert os.environ[OMP] == str(number), "for the processes that it starts"


def test_python_trains_with_the_number_of_the_config_or_its_own(config: Callable[..., DictConfig]) -> None:
    torch.set_num_threads(2)
    assert train_run(config("model=mlp", "model.encoder.width=8", "trainer.max_steps=1", folder="a"))["threads"] == 2
    assert (
        train_run(config("model=mlp", "model.encoder.width=8", "trainer.max_steps=1", "threads=1", folder="b"))[
            "threads"
        ]
        == 1
    )
    assert torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="threads=0: choose auto"):
        train_run(config("threads=0", folder="c"))


def test_the_processes_of_a_run_are_told_its_number(config: Callable[..., DictConfig]) -> None:
    cfg = config("trainer.devices=2")
    training.settle_threads(cfg, nprocesses=2)
    assert worker_settings(cfg)["config"]["threads"] == 1


SUBMITIT = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
JOBLIB = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": -1}
LOCAL = {"_target_": f"{SUBMITIT}.LocalLauncher", "cpus_per_task": 1}
SLURM = {"_target_": f"{SUBMITIT}.SlurmLauncher", "cpus_per_task": 4}
RAY = {
    "_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "ray": {"init": {"address": None}, "remote": {"num_cpus": 3}},
}
BASIC = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
CORES = allowed_cores()

TRIALS: dict[str, tuple[dict[str, Any], list[int | str], dict[str, Any], list[int], int | None]] = {
    "one after the other": (BASIC, [AUTO, AUTO], {"ndevices": CORES}, [1, 1], None),
    "typed": (BASIC, [1, 2], {}, [1, 2], None),
    "joblib": (JOBLIB, [AUTO], {}, [1], CORES),
    "joblib, a number of trials": (JOBLIB | {"n_jobs": CORES}, [AUTO], {}, [1], CORES),
    "joblib, typed": (JOBLIB, [CORES], {}, [CORES], 1),
    "joblib, the largest counts": (JOBLIB, [1, CORES], {}, [1, CORES], 1),
    "joblib, as the sweep began": (JOBLIB, [AUTO], {"kept": CORES}, [CORES], 1),
    "joblib, OMP_NUM_THREADS": (JOBLIB, [AUTO], {"variable": str(CORES)}, [CORES], 1),
    "slurm_local": (LOCAL, [AUTO], {}, [1], CORES),
    "slurm_local, cores of a trial": (LOCAL | {"cpus_per_task": CORES}, [AUTO], {}, [CORES], 1),
    "slurm_local, two devices": (LOCAL | {"cpus_per_task": CORES}, [AUTO], {"ndevices": CORES}, [1], 1),
    "slurm": (SLURM, [AUTO], {}, [4], None),
    "slurm, two devices": (SLURM, [AUTO], {"ndevices": 2}, [2], None),
    "slurm, typed": (SLURM, [2], {}, [2], None),
    "ray": (RAY, [AUTO], {}, [3], None),
}


def hydra_config(launcher: dict[str, Any]) -> DictConfig:
    parts = {"launcher": launcher, "sweeper": {"max_batch_size": None}, "job": {"env_set": {}}}
    return OmegaConf.create(parts)


@pytest.mark.parametrize("name", TRIALS)
def test_trials_times_threads_never_exceed_the_cores(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, settings, more, expected, ntrials = TRIALS[name]
    monkeypatch.delenv(OMP)
    if "variable" in more:
        monkeypatch.setenv(OMP, more["variable"])
    if "kept" in more:
        keep_threads(tmp_path, Threads(more["kept"], "auto"))
    hydra = hydra_config(launcher)
    assert settle_trial_threads(hydra, settings, tmp_path, more.get("ndevices", 1)) == expected
    assert (hydra.launcher.get("n_jobs") or hydra.sweeper.max_batch_size) == ntrials
    assert kept_threads(tmp_path) == (expected[0] if AUTO in settings else None)


TOO_MANY: dict[str, tuple[dict[str, Any], int | str, int, str]] = {
    "more trials than cores": (JOBLIB | {"n_jobs": CORES + 1}, 1, 1, f"needs {CORES + 1} cores, and there are {CORES}"),
    "threads times trials": (JOBLIB | {"n_jobs": CORES}, 2, 1, f"2 threads each needs {2 * CORES} cores"),
    "devices times trials": (JOBLIB | {"n_jobs": CORES}, AUTO, 2, f"2 threads each needs {2 * CORES} cores"),
    "no number": (BASIC, "many", 1, "threads=many: choose auto"),
}


@pytest.mark.parametrize("name", TOO_MANY)
def test_too_many_threads_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    launcher, setting, ndevices, sentence = TOO_MANY[name]
    with pytest.raises(ValueError, match=sentence):
        settle_trial_threads(hydra_config(launcher), [setting], tmp_path / "sweep", ndevices)
    assert not (tmp_path / "sweep").exists()


def test_another_setting_for_the_same_is_refused(tmp_path: Path) -> None:
    hydra = hydra_config(BASIC)
    hydra.job.env_set[OMP] = "2"
    with pytest.raises(ValueError, match=r"hydra\.job\.env_set\.OMP_NUM_THREADS=2: set threads= instead"):
        settle_trial_threads(hydra, [AUTO], tmp_path)


def test_threads_beyond_what_a_trial_is_given_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settle_trial_threads(hydra_config(SLURM), [8], tmp_path)
    assert "a trial has 8 threads and hydra.launcher.cpus_per_task=4 cores" in caplog.text


def test_the_first_of_two_drivers_decides(tmp_path: Path) -> None:
    first = keep_threads(tmp_path, Threads(2, "auto: it was quiet"))
    assert keep_threads(tmp_path, Threads(1, "auto: it was busy")).number == first.number == 2
    assert kept_threads(tmp_path) == 2
    for damage in ("", "{}", "[]", '{"threads": 0}', '{"threads": true}', '{"threads": "2"}'):
        (tmp_path / "threads.json").write_text(damage)
        assert kept_threads(tmp_path) is None


def test_a_measured_number_is_no_part_of_a_trial_and_a_typed_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = Path("outputs/sweeps/mine")

    def run(*arguments: str) -> str:
        assert invoke(training.main, "train", "-m", *TINY, "group=mine", *arguments, monkeypatch=monkeypatch) == 0
        return capfd.readouterr().out

    assert run("seed=0,1").startswith("threads=1 (OMP_NUM_THREADS) for each trial\n2 trials, 2 to run")
    folders = sorted(path.parent for path in sweep.glob("*/summary.json"))
    assert len(folders) == 2
    for folder in folders:
        told = shlex.split(summary(folder)["command"])
        assert told[-1] == "threads=1"
        assert folder.name == digest([text for text in told[3:] if text != "threads=1"])
        assert (summary(folder)["threads"], stored(folder)) == (1, 1)
    monkeypatch.setenv(OMP, "2")
    said = run("seed=0,1")
    assert "2 trials, 0 to run" in said
    assert "OMP_NUM_THREADS=2 is ignored: the run began with threads=1" in said
    assert "1 trials, 1 to run" in run("seed=0", "threads=1")
    (new,) = {path.parent for path in sweep.glob("*/summary.json")} - set(folders)
    assert summary(new)["command"].count("threads=") == 1


def test_a_study_keeps_its_number(tmp_path: Path, config: Callable[..., DictConfig]) -> None:
    cfg = config()
    assert tune.settle_study_threads(cfg, tmp_path) == cfg.threads == kept_threads(tmp_path) == 1
    (tmp_path / "threads.json").write_text('{"threads": 2}')
    assert tune.settle_study_threads(config(), tmp_path) == 2
    assert tune.settle_study_threads(config("threads=1"), tmp_path) == 1
    assert kept_threads(tmp_path) == 2


def test_overrides_have_one_number() -> None:
    assert with_threads(["seed=1", "threads=auto"], 2) == ("seed=1", "threads=2")
    assert with_threads(["+threads=3", "seed=1"], 3) == ("seed=1", "threads=3")

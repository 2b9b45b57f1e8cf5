"""What a signal does to a run in each of its phases, and to the other commands."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from invoking import invoke
from omegaconf import DictConfig
from PIL import Image
from sabotage import Signals

from vae_lab import detect, evaluate, generate
from vae_lab.errors import Interrupted, exit_code
from vae_lab.system.signals import SIGNALS, EndAtOnce, handled_signals, must_stay
from vae_lab.training.run import train_run

Compose = Callable[..., DictConfig]
PHASES = {  # what the signal meets: how often, the checkpoint's batches, what the message says
    "setup": (1, None, "before the first batch"),
    "on_train_start": (1, 1, "after a validation and a checkpoint"),
    "batch": (1, 1, "after a validation and a checkpoint"),
    "on_validation_start": (1, 2, "after a validation and a checkpoint"),
    "on_train_end": (1, 4, "after training"),
    "on_fit_end": (1, 4, "after training"),
    "on_test_start": (1, 4, "after training"),
    "on_test_batch_end": (1, 4, "after training"),
}
TWICE = {"batch": (2, None, "at once"), "on_test_start": (2, 4, "after training")}
CASES = [*((phase, signal.SIGTERM) for phase in PHASES), *(("batch", number) for number in SIGNALS)]


def stopped(
    config: Compose, folder: Path, phase: str, number: int, times: int
) -> tuple[Interrupted, dict[str, object]]:
    """The end of a run that a signal meets in a phase, and its summary."""
    with pytest.raises(Interrupted) as caught:
        train_run(config("~callbacks.gallery", "~callbacks.latents"), [Signals(number=number, hook=phase, times=times)])
    return caught.value, json.loads((folder / "summary.json").read_text())


def check(config: Compose, folder: Path, phase: str, number: int, case: tuple[int, int | None, str]) -> None:
    """Let a run be stopped, and compare its end with what was promised."""
    times, batches, said = case
    before = [signal.getsignal(n) for n in SIGNALS]
    error, summary = stopped(config, folder, phase, number, times)
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert exit_code(error) == 128 + number
    assert said in str(error)
    assert (summary["status"], summary["reason"]) == ("interrupted", str(error))
    assert "test/neg_elbo" not in summary
    last = folder / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)["global_step"] if last.exists() else None
    assert stored == batches


@pytest.mark.parametrize(("phase", "number"), CASES, ids=str)
def test_a_signal_ends_a_run_in_each_phase(phase: str, number: signal.Signals, config: Compose, tmp_path: Path) -> None:
    check(config, tmp_path / "run", phase, number, PHASES[phase])


@pytest.mark.parametrize("times", [2, 10])
@pytest.mark.parametrize("phase", TWICE)
def test_a_second_signal_ends_it_at_once_and_more_change_nothing(
    phase: str, times: int, config: Compose, tmp_path: Path
) -> None:
    check(config, tmp_path / "run", phase, signal.SIGTERM, (times, *TWICE[phase][1:]))


def test_the_kernels_warning_is_repeated_every_second_and_insists_on_nothing(config: Compose, tmp_path: Path) -> None:
    check(config, tmp_path / "run", "batch", signal.SIGXCPU, (3, 1, "after a validation and a checkpoint"))


def test_a_run_in_a_thread_leaves_the_signals_alone(config: Compose) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handled_signals).result() == []
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_what_nohup_ignores_stays_ignored(config: Compose) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train_run(config(), [Signals(number=signal.SIGHUP, hook="batch")])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_submitit_keeps_the_signal_at_which_it_requeues() -> None:
    job_environment = pytest.importorskip("submitit.core.job_environment")
    handler = object.__new__(job_environment.SignalHandler)
    assert must_stay(handler.checkpoint_and_try_requeue)
    assert not must_stay(handler.bypass), "that is for SIGTERM, at which a run saves itself"


def test_signals_are_ignored_while_the_first_is_cleaned_up_after(monkeypatch: pytest.MonkeyPatch) -> None:
    end = EndAtOnce("at once")
    with pytest.raises(Interrupted, match="stopped by SIGTERM, at once"):
        end(signal.SIGTERM)
    end(signal.SIGTERM)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    with pytest.raises(Interrupted):
        end(signal.SIGTERM)


STEP = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step of a Slurm job, in a working directory of its own."""
    for name, value in {**STEP, "NODELIST": "localhost", "STEP_NUM_TASKS": "1", "STEP_TASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("step")
def test_in_a_step_of_slurm_lightning_requeues_nothing(config: Compose, tmp_path: Path) -> None:
    check(config, tmp_path / "run", "batch", signal.SIGUSR1, PHASES["batch"])
    assert not list(tmp_path.rglob("*hpc_ckpt*"))


@pytest.mark.usefixtures("step")
def test_in_a_step_of_slurm_no_run_goes_on_unasked(config: Compose, tmp_path: Path) -> None:
    alone = train_run(config(folder="alone"))
    train_run(config("seed=1", "trainer.max_steps=2", folder="another"))
    stored = tmp_path / "another" / "checkpoints" / "last.ckpt"
    (tmp_path / "run").mkdir()
    for place in (tmp_path, tmp_path / "run"):
        shutil.copy(stored, place / "hpc_ckpt_1.ckpt")
    summary = train_run(config())
    assert (summary["steps"], summary["test/neg_elbo"]) == (4, alone["test/neg_elbo"])
    with pytest.raises(ValueError, match=r"holds hpc_ckpt_1.ckpt, from which Lightning would resume unasked"):
        train_run(config(f"trainer.default_root_dir={tmp_path}", folder="third"))


COMMANDS = {
    "generate": (generate.main, ("n=20000", "out=made")),
    "evaluate": (evaluate.main, ("nsamples=1000000", "nll_images=8", "device=cpu")),
    "detect": (detect.main, ("images=pictures", "score=iwae_nll", "score.nsamples=1000000", "alpha=0.2")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_burst_of_signals_ends_a_command_and_leaves_no_temporary_file(
    name: str, config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train_run(config())
    (tmp_path / "pictures").mkdir()
    Image.new("L", (16, 16), 99).save(tmp_path / "pictures" / "grey.png")
    main, settings = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    end = EndAtOnce("at once")

    def burst() -> None:
        while signal.getsignal(signal.SIGTERM) is not end:
            time.sleep(0.01)
        time.sleep(2)  # until it is at work; it listens from the start
        for _ in range(10):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    thread = threading.Thread(target=burst)
    thread.start()
    try:
        code = invoke(main, name, "run=run", *settings, monkeypatch=monkeypatch, end=end)
        thread.join()
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in SIGNALS), "until the process is gone"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert code == 143
    assert "stopped by SIGTERM, at once." in "".join(capfd.readouterr())
    assert not list(tmp_path.rglob("*.tmp"))

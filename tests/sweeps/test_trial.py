"""One trial's folder, and the one process that works in it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sweeping import made

from vae_lab.errors import Interrupted
from vae_lab.runs.folder import State, record
from vae_lab.sweeps.grid import passed_on
from vae_lab.sweeps.trial import Trial, run_trial
from vae_lab.system.locks import hold, holder


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["model.nlatent=8", "optimizer.lr=0.00031622776601683794"], "nlatent=8 lr=0.0003162"),
        (["data.nimages=64", "callbacks.latents.nimages=8"], "data.nimages=64 callbacks.latents.nimages=8"),
        (["+optimizer.betas=[0.9,0.9990001]", "seed=123456789"], "betas=[0.9,0.999] seed=123456789"),
        (["likelihood=mse", "optimizer.lr=3.1622776601683795e-05"], "likelihood=mse lr=3.162e-05"),
        (["logger.wandb.api_key=secret1"], "api_key=***"),
    ],
)
def test_a_trial_is_called_by_what_is_swept(overrides: list[str], name: str) -> None:
    trial = Trial(tuple(overrides), Path("3f07049de2"), swept=tuple(overrides))
    assert trial.name == f"{name} (3f07049de2)"


def test_a_trial_in_hand_is_left_to_its_process(tmp_path: Path) -> None:
    (trial,) = made(tmp_path, 1)
    code = "import sys, time\nfrom pathlib import Path\nfrom vae_lab.system.locks import hold\n"
    code += "with hold(Path(sys.argv[1])) as mine:\n print(mine, flush=True)\n time.sleep(float(sys.argv[2]))"
    line = [sys.executable, "-c", code, str(trial.folder), "60"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        who = holder(trial.folder)
        assert who is not None
        assert who.pid == process.pid
        assert run_trial(trial, lambda *_: pytest.fail("done twice")) == State("running")
        with hold(trial.folder) as mine:
            assert not mine
        process.kill()
    assert holder(trial.folder) is None
    assert run_trial(trial, lambda *_: record(trial.folder, status="completed")).status == "completed"
    assert run_trial(trial, lambda *_: pytest.fail("done twice")).status == "completed"


def test_who_merely_looks_at_a_trial_keeps_nobody_from_it(tmp_path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom vae_lab.system.locks import holder\nprint(flush=True)\n"
    code += "while True: holder(Path(sys.argv[1]))"
    line = [sys.executable, "-c", code, str(tmp_path)]
    with hold(tmp_path):
        pass
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        refused = 0
        for _ in range(2000):
            with hold(tmp_path) as mine:
                refused += not mine
        process.kill()
    assert refused == 0


def test_a_signal_is_passed_on_although_a_trials_process_has_just_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    monkeypatch.setenv("VAE_LAB_RUN", "mine")
    monkeypatch.setattr("vae_lab.sweeps.grid.PATIENCE", 0.0)
    (trial,) = made(tmp_path, 1)
    with hold(trial.folder):
        (trial.folder / ".lock").write_text(json.dumps([socket.gethostname(), ended.pid, "mine"]))
        with pytest.raises(Interrupted), passed_on([trial]):
            os.kill(os.getpid(), signal.SIGTERM)

"""W&B's own variables count where nothing was typed, and what was typed counts before them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from vae_lab.sweeps.trial import label

TINY = ("data=synthetic", "model=mlp", "model.encoder.width=8", "trainer.max_steps=2", "trainer.val_check_interval=2")
VARIABLES = {
    "WANDB_PROJECT": "p",
    "WANDB_NAME": "n",
    "WANDB_TAGS": "a,b",
    "WANDB_RUN_GROUP": "g",
    "WANDB_NOTES": "why",
    "WANDB_ENTITY": "lab",
    "WANDB_JOB_TYPE": "job",
    "WANDB_RUN_ID": "mine",
}
ASKED = {
    "project": "p", "display_name": "n", "tags": ["a", "b"], "run_group": "g", "notes": "why", "entity": "lab",
    "job_type": "job", "run_id": "mine",
}  # fmt: skip
TYPED = ("logger.wandb.project=mine", "logger.wandb.name=own", "logger.wandb.tags=[c]", "group=typed")


def recorded(folder: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """What W&B's file has about a run of the command, which lies in `folder`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA", "VAE_LAB"))}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "WANDB_MODE": "offline", "WANDB_SILENT": "true", **variables}
    line = [sys.executable, "-m", "vae_lab.train", *TINY, "logger=wandb", *arguments, f"hydra.run.dir={folder / 'run'}"]
    done = subprocess.run(line, env=env, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.rglob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    (run,) = [record["run"] for record in map(json.loads, lines) if record["type"] == "run"]
    return run | {"where": file.relative_to(folder).parts[0]}


@pytest.mark.slow
def test_a_variable_counts_where_nothing_was_typed(tmp_path: Path) -> None:
    run = recorded(tmp_path, **VARIABLES, WANDB_DIR=str(tmp_path / "scratch"))
    assert {key: run.get(key) for key in ASKED} == ASKED
    assert run["where"] == "scratch"


@pytest.mark.slow
def test_what_was_typed_counts_before_a_variable(tmp_path: Path) -> None:
    run = recorded(tmp_path, *TYPED, **VARIABLES)
    typed = {"project": "mine", "display_name": "own", "tags": ["c"], "run_group": "typed"}
    assert {key: run.get(key) for key in ASKED} == ASKED | typed
    assert run["where"] == "run"


@pytest.mark.parametrize(
    ("typed", "variables", "expected"),
    [
        ((), (), ("sweep", "nlatent=2", ["model.nlatent=2"])),
        ((), ("WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_TAGS"), ("g", "n", ["a", "b", "model.nlatent=2"])),
        (TYPED, ("WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_TAGS"), ("sweep", "own", ["c", "model.nlatent=2"])),
    ],
    ids=str,
)
def test_a_trial_is_labelled_by_what_is_swept_beside_what_was_asked_for(
    config: Callable[..., DictConfig],
    monkeypatch: pytest.MonkeyPatch,
    typed: tuple[str, ...],
    variables: tuple[str, ...],
    expected: tuple[object, ...],
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name in variables:
        monkeypatch.setenv(name, VARIABLES[name])
    cfg = config("logger=wandb", *typed)
    label(cfg, "sweep", ["model.nlatent=2"], None)
    wandb = cfg.logger.wandb
    assert (wandb.group, wandb.name, list(wandb.tags)) == expected
    assert (cfg.group, wandb.project) == ("sweep", "mine" if typed else "vae_lab")

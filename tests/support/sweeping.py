"""Sweeps run as a user would, some of whose trials go wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

from vae_lab.sweeps.trial import Trial, digest

LIMIT = 900.0
"""Seconds after which a process that a test has started hangs; a tenth of that suffices beside two busy processes."""
NO_PICTURES = ("~callbacks.gallery", "~callbacks.latents")
"""What a third of a run of four steps goes to, and few tests look at."""
TINY = (
    "data=synthetic",
    "model=mlp",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.precision=32-true",
)


def sabotaged(how: str, at: str, batch: int, here: str = "${model.nlatent}") -> list[str]:
    """Overrides that let one trial go wrong while the file `bad` exists."""
    settings = {"_target_": "sabotage.Sabotage", "here": here, "at": at}
    settings |= {"how": how, "batch": batch, "while_exists": "bad"}
    return [f"+callbacks.{how}.{key}={value}" for key, value in settings.items()]


def start(
    *arguments: str, cwd: Path, module: str = "vae_lab.train", before: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """The command, in a process of its own, behind the words of another command."""
    root = Path(__file__).parents[2]
    ours = ("WANDB", "HYDRA", "VAE_LAB")  # the W&B service of this process, and what commands run in it have set
    env = {key: value for key, value in os.environ.items() if not any(word in key for word in ours)}
    env |= {"PYTHONPATH": f"{root}:{root}/tests/support", "WANDB_MODE": "offline"}
    line = [*before, sys.executable, "-m", module, *arguments]
    with (cwd / "output.txt").open("w") as output:  # a pipe would stay open as long as a worker that nobody stops
        return subprocess.Popen(line, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], cwd: Path) -> tuple[int, str]:
    """The exit code of a command started in `cwd`, and what it printed."""
    try:
        code = process.wait(LIMIT)
    finally:
        process.kill()
    return code, (cwd / "output.txt").read_text()


def summaries(cwd: Path) -> dict[str, dict[str, object]]:
    """The summaries of all trials, by what was swept."""
    found = [json.loads(path.read_text()) for path in cwd.glob("outputs/sweeps/*/*/summary.json")]
    return {next(text for text in one["overrides"] if text.startswith("model.nlatent")): one for one in found}


def times(cwd: Path) -> dict[Path, int]:
    """When each trial's summary was written last."""
    return {path: path.stat().st_mtime_ns for path in cwd.glob("outputs/sweeps/*/*/summary.json")}


def made(folder: Path, number: int) -> list[Trial]:
    """Trials that differ in their seed."""
    return [Trial((f"seed={i}",), folder / digest([f"seed={i}"])) for i in range(number)]

"""Commands in the tests' own process, which they leave as it was, and in one of theirs."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sweeping import LIMIT

from vae_lab.cli.entry import run, run_until_signal
from vae_lab.system.signals import EndAtOnce


def invoke(
    main: Callable[[], None],
    name: str,
    *arguments: str,
    monkeypatch: pytest.MonkeyPatch,
    end: EndAtOnce | None = None,
) -> int:
    """The exit code of the command with these arguments; its folders are those of the working directory.

    With `end` it listens to signals, as a process of its own would.
    """
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    for variable in ("HYDRA_FULL_ERROR", "VAE_LAB_RUN"):  # which the command sets
        monkeypatch.setenv(variable, "0")
    handlers = list(logging.getLogger().handlers)
    try:
        task = main.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
        return run(task, name) if end is None else run_until_signal(end, task, name)
    finally:
        for handler in set(logging.getLogger().handlers) - set(handlers):
            handler.close()
        logging.getLogger().handlers[:] = handlers


def vae_lab(command: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, without a W&B key and without a terminal."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA", "VAE_LAB"))}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(cwd), **environment}
    line = [sys.executable, "-m", f"vae_lab.{command}", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=env, timeout=LIMIT, check=False)

"""The hooks of .pre-commit-config.yaml: their commands are installed, and find nothing wrong in this tree."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
(REPOSITORY,) = CONFIG["repos"]
HOOKS: dict[str, dict[str, Any]] = {hook["id"]: hook for hook in REPOSITORY["hooks"]}
COMMANDS = [name for name, hook in HOOKS.items() if hook["language"] == "system"]


def test_hooks_are_local_and_need_no_network() -> None:
    assert REPOSITORY["repo"] == "local"
    assert {hook["language"] for hook in HOOKS.values()} == {"system", "pygrep"}
    assert COMMANDS == ["ruff-check", "ruff-format", "lint-imports"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hook_passes_on_this_tree(name: str) -> None:
    program, *arguments = shlex.split(HOOKS[name]["entry"])
    assert program.startswith(".venv/bin/")
    command = [str(Path(sys.executable).parent / Path(program).name), *arguments]
    files = ["."] if HOOKS[name].get("pass_filenames", True) else []
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("message", "refused"), [("a" * 73, True), ("a" * 72 + "\n\n" + "b" * 90, False), ("", False)])
def test_a_long_subject_is_refused(message: str, refused: bool) -> None:
    hook = HOOKS["subject"]
    assert hook["args"] == ["--multiline"]
    assert hook["stages"] == ["commit-msg"]
    assert bool(re.search(hook["entry"], message, re.MULTILINE | re.DOTALL)) == refused

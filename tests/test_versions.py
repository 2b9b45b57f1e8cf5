"""constraints.txt names the versions that the tests run with, and nothing else."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def required() -> list[Requirement]:
    """What the tests need: the dependencies, and what the extra `dev` brings."""
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS["dev"]]]
    own = [name for requirement in found if requirement.name == "vae_lab" for name in sorted(requirement.extras)]
    found += [Requirement(text) for name in own for text in EXTRAS[name]]
    return [requirement for requirement in found if requirement.name != "vae_lab"]


def test_a_line_is_a_name_and_a_version() -> None:
    assert [line for line in LINES if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.]*", line)] == []
    assert sorted(LINES) == LINES


@pytest.mark.parametrize("requirement", required(), ids=lambda requirement: requirement.name)
def test_each_dependency_is_pinned_to_a_version_that_it_admits(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)], prereleases=True)


@pytest.mark.parametrize(("name", "excluded"), [("hydra-core", "1.4.0"), ("omegaconf", "2.4.0"), ("wandb", "1.0.0")])
def test_versions_that_may_break_us_are_bounded(name: str, excluded: str) -> None:
    (requirement,) = (one for one in required() if one.name == name)
    assert not requirement.specifier.contains(excluded, prereleases=True)


def installations(target: str, *given: str, **environment: str) -> list[str]:
    """The lines by which make would install into an environment that does not exist, without a pip configuration."""
    line = [
        "make",
        "--dry-run",
        "--always-make",
        f"PYTHON={sys.executable}",
        "VENV=nowhere",
        *given,
        f"nowhere/{target}",
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV", "MAKE"))}
    env |= {"PIP_CONFIG_FILE": os.devnull, **environment}
    said = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout
    return [text for text in said.splitlines() if "pip install" in text]


INSTALLED = {"train": ["."], "paintings": [".[pretrained]"], "dev": [".[dev]"], "bench": [".", ".[bench]"]}


@needs_make
@pytest.mark.parametrize("target", INSTALLED)
@pytest.mark.parametrize(("given", "option"), [((), ("--constraint", "constraints.txt")), (("CONSTRAINTS=",), ())])
def test_make_installs_what_a_target_needs_under_the_constraints(
    target: str, given: tuple[str, ...], option: tuple[str, ...]
) -> None:
    lines = [shlex.split(line.partition(" || ")[0]) for line in installations(target, "UV=", *given)]
    start = ["nowhere/bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *option]
    assert lines == [[*start, "--editable", what] for what in INSTALLED[target]]


@needs_make
@pytest.mark.parametrize(("arguments", "downloads"), [((), True), (("ARGS=data.root=<folder>",), False)])
def test_make_downloads_paintings_unless_a_folder_is_given(arguments: tuple[str, ...], downloads: bool) -> None:
    line = ["make", "--dry-run", f"PYTHON={sys.executable}", "VENV=nowhere", *arguments, "paintings"]
    said = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("data.download=true" in said) == downloads


CHOICES: dict[str, tuple[tuple[str, ...], dict[str, str], bool]] = {
    "uv is installed": ((), {}, True),
    "pip was asked for": (("UV=",), {}, False),
    "pip has an index of its own": ((), {"PIP_INDEX_URL": "file:///nowhere"}, False),
    "pip has a folder of wheels": ((), {"PIP_FIND_LINKS": "/nowhere"}, False),
    "pip has settings of another kind": ((), {"PIP_NO_INPUT": "1"}, True),
    "pip's file names an index": ((), {"PIP_CONFIG_FILE": "pip.conf"}, False),
}


@needs_make
@pytest.mark.parametrize("name", CHOICES)
def test_make_takes_uv_unless_pip_knows_where_packages_come_from(name: str, tmp_path: Path) -> None:
    given, environment, expected = CHOICES[name]
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = file:///nowhere\n")
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | environment
    if environment.get("PIP_CONFIG_FILE"):
        environment["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")
    (line,) = installations("dev", *given, **environment)
    assert line.startswith(f"{uv} pip install --python nowhere/bin/python ") == expected

"""constraints.txt names the versions that the tests run with, and nothing else."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("given", "option"), [((), "--constraint constraints.txt"), (("CONSTRAINTS=",), None)])
def test_make_installs_under_the_constraints(given: tuple[str, ...], option: str | None) -> None:
    command = ["make", "--dry-run", "--always-make", "VENV=nowhere", *given, "nowhere/done"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    (install,) = (line for line in lines if "pip install" in line)
    assert "--editable '.[dev]'" in install
    assert option in install if option else "--constraint" not in install

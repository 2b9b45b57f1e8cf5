"""The wheel and the sdist: what they hold, and that the wheel runs in an environment without developers' packages."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sweeping import LIMIT, NO_PICTURES, TINY

from vae_lab.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(builder: type[WheelBuilder] | type[SdistBuilder], source: Path, folder: Path) -> Path:
    """The file that is built of a source tree."""
    (path,) = builder(str(source)).build(directory=str(folder), versions=["standard"])
    return Path(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(WheelBuilder, ROOT, tmp_path_factory.mktemp("dist"))


def packed(wheel: Path) -> set[str]:
    """The files of a wheel that are not about the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def files_below(folder: str, name: str) -> set[str]:
    """The files of a folder of this tree, as if it had another name."""
    found = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {f"{name}/{path.relative_to(ROOT / folder).as_posix()}" for path in found}


def test_the_wheel_holds_code_configs_templates_and_types_and_nothing_else(wheel: Path) -> None:
    code = files_below("vae_lab", "vae_lab") | files_below("hydra_plugins", "hydra_plugins")
    assert packed(wheel) == code | files_below("conf", "vae_lab/conf")
    suffixes = {Path(name).suffix for name in packed(wheel)}
    assert {".py", ".yaml", ".html", ".typed"} <= suffixes


def test_the_sdist_builds_the_same_wheel_and_brings_the_tests(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(SdistBuilder, ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert packed(build(WheelBuilder, source, tmp_path)) == packed(wheel)
    tests = {name for name in files_below("tests", "tests") if name.endswith(".py")}
    assert tests == {path.relative_to(source).as_posix() for path in (source / "tests").rglob("*.py")}
    for name in ("LICENSE", "Makefile", "constraints.txt", ".pre-commit-config.yaml", "docs/data.md"):
        assert (source / name).is_file(), name


def dependencies() -> list[Distribution]:
    """What `pip install vae_lab` brings along, without any extra."""
    due = [Requirement(text) for text in PROJECT["dependencies"]]
    found: dict[str, Distribution] = {}
    followed: set[str] = set()
    while due:
        requirement = due.pop()
        if str(requirement) in followed:
            continue
        followed.add(str(requirement))
        part = found[canonicalize_name(requirement.name)] = distribution(requirement.name)
        extras = ["", *requirement.extras]
        needed = [Requirement(text) for text in part.requires or []]
        due += [one for one in needed if not one.marker or any(one.marker.evaluate({"extra": name}) for name in extras)]
    return list(found.values())


def install_bare(wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment with the wheel, and links to what it depends on and to nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for part in dependencies():
        tops = {file.parts[0] for file in part.files or [] if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(part.locate_file(top))))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_alone_trains_and_reports_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    python = install_bare(wheel, tmp_path / "bare")
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        line = [str(python), *arguments]
        done = subprocess.run(line, capture_output=True, text=True, cwd=empty, env=env, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    absent = "import importlib.util as u; print([n for n in ('pytest', 'optuna', 'submitit', 'pip') if u.find_spec(n)])"
    assert run("-c", absent) == "[]\n"
    listed = run("-m", "vae_lab").splitlines()
    assert [line.split()[2] for line in listed[1:]] == [f"vae_lab.{name}" for name in COMMANDS]
    said = run("-m", "vae_lab.train", *TINY, *NO_PICTURES, "logger=none", "folder=run")
    assert f"next: {python} -m vae_lab.generate run=run, or evaluate, which writes a page" in said
    run("-m", "vae_lab.report", "runs=run", "out=page.html")
    assert "</html>" in (empty / "page.html").read_text()
    assert {path.name for path in empty.iterdir()} == {"run", "page.html", "page.csv", "page.md"}

"""The package in examples/ does what its page says, from an empty folder, by commands alone."""

import importlib
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from invoking import invoke
from sweeping import LIMIT

ROOT = Path(__file__).parents[1]
MYLAB = ROOT / "examples" / "mylab"
PAGE = (MYLAB / "README.md").read_text()
COMMANDS = [shlex.split(line)[2:] for line in PAGE.splitlines() if line.startswith("python -m vae_lab.")]
FEWER = (
    "data.nimages=240",
    "data.nval=40",
    "data.ntest=40",
    "trainer.max_steps=40",
    "trainer.val_check_interval=20",
    "threads=1",
)
SMALLER = {
    "train": (*FEWER, "logger=none"),
    "tune": ("search.ntrials=1", *FEWER, "logger=none"),
    "generate": ("threads=1",),
    "evaluate": (
        "threads=1",
        "nll_images=4",
        "nsamples=2",
        "ngenerated=20",
        "features=vgg",
        "nreplicates=5",
        "ngroups=4",
    ),
    "detect": ("threads=1",),
    "report": (),
    "profile": ("threads=1", "nrepeats=1", "max_seconds=0.1", "pixels=1024", "memory=1GiB"),
}
"""Settings that let a test take seconds."""
LEFT = {
    "train": ["run/summary.json", "run/weight_norms.csv", "run/figures/samples.png"],
    "generate": ["drawn/grid.png", "drawn/00024.png"],
    "evaluate": ["run/evaluation-test.json"],
    "detect": ["scores.csv", "scores-strangest.png"],
    "report": ["run/report.html"],
    "tune": ["outputs/studies/*/*/summary.json"],
    "profile": ["profile/profile.json"],
}
SWEEP = ["outputs/sweeps/*/*/summary.json"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type commands in, with the example package to be found."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{MYLAB}")
    monkeypatch.syspath_prepend(MYLAB)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def test_the_page_names_every_command() -> None:
    assert {words[0].removeprefix("vae_lab.") for words in COMMANDS} == set(SMALLER)
    assert COMMANDS[0][0] == "vae_lab.train"


def test_a_run_is_trained_drawn_from_evaluated_judged_with_and_reported(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train, *others = COMMANDS[:5]
    line = [sys.executable, "-m", *quote_arguments(train)]  # a process of its own, as a user starts it
    done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "read this run with trust=[mylab]" in done.stdout
    assert "'trust=[mylab]', or evaluate, which writes a page" in done.stdout
    for words in others:
        refuse_without_trust(words, monkeypatch, capfd)
        assert typed(words, monkeypatch) == 0, words
    for path in [path for words in COMMANDS[:5] for path in LEFT[command_of(words)]]:
        assert (empty / path).is_file(), path
    assert json.loads((empty / "run/summary.json").read_text())["classes"] == ["disc", "square", "diamond"]
    assert len((empty / "run/weight_norms.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("words", COMMANDS[5:], ids=lambda words: words[0])
def test_the_other_commands_work_as_well(empty: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    assert typed(words, monkeypatch) == 0
    for path in SWEEP if "-m" in words else LEFT[command_of(words)]:
        assert list(empty.glob(path)), path


def command_of(words: list[str]) -> str:
    """The name of a command."""
    return words[0].removeprefix("vae_lab.")


def quote_arguments(words: list[str]) -> list[str]:
    """A command of the page, in the small."""
    return [*(word.replace("$MYLAB", str(MYLAB)) for word in words), *SMALLER[command_of(words)]]


def typed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command of the page, in this process."""
    module, *arguments = quote_arguments(words)
    return invoke(importlib.import_module(module).main, command_of(words), *arguments, monkeypatch=monkeypatch)


def refuse_without_trust(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Type a command without trust, where it has some: it ends with one sentence, and writes nothing."""
    without = [word for word in words if not word.startswith("trust=")]
    if without == words:
        return
    before = sorted(Path().rglob("*"))
    capfd.readouterr()
    assert typed(without, monkeypatch) == 2
    *_, line = "".join(capfd.readouterr()).splitlines()
    assert re.search(r"names 'mylab\.networks\.MixerEncoder' as model.encoder.* type trust=\[mylab\]\.$", line)
    assert sorted(Path().rglob("*")) == before


def test_the_wheel_of_the_example_holds_its_configs(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(MYLAB)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {str(path.relative_to(MYLAB)) for path in (MYLAB / "mylab").rglob("*") if path.suffix in (".py", ".yaml")}
    assert here <= names


def test_every_class_of_the_example_is_in_its_experiment_and_its_page() -> None:
    targets = set(re.findall(r"_target_: (mylab\.\S+)", "".join(p.read_text() for p in MYLAB.rglob("*.yaml"))))
    classes = set(
        re.findall(r"^class (\w+)\((?!nn\.Module)", "".join(p.read_text() for p in MYLAB.rglob("*.py")), re.M)
    )
    assert classes <= {target.rpartition(".")[2] for target in targets}
    chosen = re.findall(r"override /(\w+): (\w+)", (MYLAB / "mylab/conf/experiment/shapes.yaml").read_text())
    assert all(f"`{group}={name}`" in PAGE for group, name in chosen)
    assert {group for group, _ in chosen} == {"data", "model", "likelihood", "objective", "schedule", "callbacks"}

"""`python -m vae_lab.runs best` ranks what can be compared; `rm` removes what was chosen and nothing else."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoking import invoke
from made_runs import make_run

from vae_lab.runs.__main__ import agrees, main
from vae_lab.runs.listing import inspect_run
from vae_lab.runs.registry import duration, remove_run, select_runs
from vae_lab.system.locks import LOCK, hold

Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """A function that returns what the command prints, typed in a folder with runs in outputs/."""
    monkeypatch.chdir(tmp_path)
    for name, score in {"good": 1.0, "better": 0.5, "poor": 9.0}.items():
        make_run(tmp_path / "outputs" / name, score)
    make_run(tmp_path / "outputs" / "failed", None, "failed", "no space left")
    make_run(tmp_path / "outputs" / "other" / "images", 0.1, images="b")

    def typed(*words: str, code: int = 0) -> str:
        capfd.readouterr()
        found = invoke(main, "runs", *words, monkeypatch=monkeypatch)
        text = "".join(capfd.readouterr())
        assert found == code, text
        return text

    return typed


def names(place: str = "outputs") -> set[str]:
    return {path.name for path in Path(place).iterdir()}


def test_the_best_is_that_of_each_set_of_images(command: Command) -> None:
    text = command("best", "n=2")
    assert "best of 3 on the same images, of 2 sets by val/neg_elbo, lower is better: run=outputs/better" in text
    assert "best of 1 on the same images, of 2 sets by val/neg_elbo, lower is better: run=outputs/other/images" in text
    assert "outputs/poor" not in text
    rows = json.loads(command("best", "run=[good,better,poor]", "mode=max", "metric=val/neg_elbo", "format=json"))
    assert [row["folder"] for row in rows] == ["outputs/poor", "outputs/good", "outputs/better"]
    assert "selecting runs by it biases their test results" in command("best", "metric=test/rate")
    assert "choose one such as val/neg_elbo" in command("best", "metric=val/elbo", code=2)


def test_a_run_is_shown_with_its_summary(command: Command) -> None:
    (shown,) = json.loads(command("show", "poor", "format=json"))
    assert (shown["status"], shown["val/neg_elbo"], shown["folder"]) == ("completed", 8.0, "outputs/poor")
    assert shown["bytes"] == sum(path.stat().st_size for path in Path("outputs/poor").rglob("*") if path.is_file())
    assert "reason: no space left" in command("show", "failed")
    assert "run=nothing is no run below root=outputs" in command("show", "nothing", code=2)


def test_help_names_the_actions(command: Command) -> None:
    text = command("--help")
    assert "vae_lab.runs rm tag=draft" in text
    assert "Configuration groups" not in text


REMOVED = {
    "a name": (("poor",), {"poor"}),
    "two": (("poor", "outputs/good"), {"poor", "good"}),
    "a status": (("status=failed",), {"failed"}),
    "the best": (("outputs/other/best:val/neg_elbo",), {"other/images"}),
    "a folder of runs": (("other",), {"other/images"}),
    "none": (("status=killed",), set()),
}


@pytest.mark.parametrize("name", REMOVED)
def test_what_is_chosen_is_removed(command: Command, name: str) -> None:
    words, removed = REMOVED[name]
    before = {*map(str, Path("outputs").rglob("*"))}
    command("rm", *words, "yes=true")
    gone = {path for path in before if any(Path(path).is_relative_to(f"outputs/{one}") for one in removed)}
    assert {*map(str, Path("outputs").rglob("*"))} == before - gone
    assert bool(gone) == bool(removed)


REFUSED = {
    "nothing is chosen": (("rm", "yes=true"), 2, "rm removes no run by default"),
    "nobody can answer": (("rm", "poor"), 2, "type yes=true"),
    "not below the root": (("rm", "outputs/poor", "root=outputs/other", "yes=true"), 2, "is no run below root="),
    "the root itself": (("rm", "outputs/poor", "root=outputs/poor", "yes=true"), 7, "it is not below root="),
    "no run": (("rm", "nothing", "yes=true"), 2, "run=nothing is no run below root=outputs"),
    "a path above": (("rm", "..", "root=outputs/other", "status=failed", "yes=true"), 0, "no run in"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_else_is_removed(command: Command, name: str) -> None:
    words, code, sentence = REFUSED[name]
    before = {*map(str, Path().rglob("*"))}
    assert sentence in command(*words, code=code)
    assert {*map(str, Path().rglob("*"))} == before


def test_links_are_not_followed(command: Command) -> None:
    make_run(Path("elsewhere/run"), 1.0)
    Path("outputs/link").symlink_to(Path("elsewhere/run").absolute())
    Path("outputs/poor/link").symlink_to(Path("elsewhere").absolute())
    Path("precious").write_text("kept")
    Path("outputs/poor", LOCK).symlink_to(Path("precious").absolute())
    command("rm", "poor", "yes=true")
    assert "is no run below root=outputs" in command("rm", "outputs/link", "yes=true", code=2)
    linked = inspect_run(Path("outputs/link"))
    assert remove_run(linked, Path("outputs"), 60.0) == "it is not below root=; name a folder above it"
    assert Path("precious").read_text() == "kept"
    assert (Path("elsewhere/run/summary.json").is_file(), Path("outputs/poor").exists()) == (True, False)


def test_a_root_that_is_a_link_is_searched(command: Command) -> None:
    Path("linked").symlink_to("outputs")
    command("rm", "poor", "root=linked", "yes=true")
    assert "poor" not in names()


def test_live_runs_are_kept_and_told(command: Command) -> None:
    make_run(Path("outputs/good/inner"), 1.0)  # which a listing does not look for inside a run
    make_run(Path("outputs/remote"), None, "running")
    Path("outputs/remote", LOCK).write_text('["another host", 1, "x"]')
    with hold(Path("outputs/poor")), hold(Path("outputs/good/inner")):
        text = command("rm", "poor", "good", "better", "remote", "yes=true", code=7)
    assert "3 of 4 runs were not removed" in text
    assert f"outputs/poor: it is running: process {os.getpid()} on" in text
    assert "outputs/good: a process works in" in text
    assert "outputs/remote: it is running: on another host" in text
    assert names() == {"poor", "good", "failed", "remote", "other"}


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("Yes ", True), ("", False), ("n", False), (None, False)])
def test_only_a_yes_removes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str | None, *, agreed: bool
) -> None:
    (tmp_path / "typed").write_text("" if answer is None else f"{answer}\n")
    with (tmp_path / "typed").open() as typed:
        monkeypatch.setattr(sys, "stdin", typed)
        assert agrees("Remove? ") is agreed


def test_a_selection_keeps_the_order_of_starts(command: Command) -> None:
    for hour, name in enumerate(("poor", "good", "better")):
        path = Path("outputs", name, "summary.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": f"2026-01-01T0{hour}:00:00+00:00"}))
    found = select_runs(Path("outputs"), ["good", "poor", "better"], patience=60.0)
    assert [run.folder.name for run in found] == ["better", "good", "poor"]
    command("ls")


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3s"), (99.0, "99s"), (130.0, "2m"), (3599.0, "1h00m"), (12000.0, "3h20m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

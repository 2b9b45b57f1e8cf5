"""`run=` takes `last`, `best:<metric>`, names and folders with one run, in every command and function."""

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from invoking import invoke
from made_runs import make_run

from vae_lab import load_model, score_images
from vae_lab.errors import DataError
from vae_lab.runs.folder import checkpoint_path, find_run, load_summary, locate
from vae_lab.train import main as train

TINY = (
    "data=synthetic", "model=mlp", "model.encoder.width=8", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "threads=1", "~callbacks.latents", "~callbacks.gallery", "logger=none",
)  # fmt: skip


def record(folder: Path, **entries: Any) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with five runs in outputs/ and a sweep of three."""
    monkeypatch.chdir(tmp_path)
    runs = {
        "2026-01-01/10-00-00-first-abc123": 5.0, "2026-01-01/11-00-00-twin-abc124": 4.0,
        "2026-01-02/09-00-00-twin-abc125": 3.0, "own": 7.0, "sweeps/x/0a": 6.0, "sweeps/x/0b": 2.5, "sweeps/x/0c": 8.0,
    }  # fmt: skip
    for hour, (name, score) in enumerate(runs.items()):
        folder = make_run(tmp_path / "outputs" / name, score)
        record(folder, started=f"2026-01-01T{hour:02}:00:00+00:00", **({"name": "twin"} if "twin" in name else {}))
    record(tmp_path / "outputs" / "sweeps/x/0b", trial="nlatent=8")
    record(tmp_path / "outputs" / "2026-01-01/10-00-00-first-abc123", name="my first")
    make_run(tmp_path / "outputs" / "sweeps/y/0d", 9.0)
    record(tmp_path / "outputs" / "sweeps/y/0d", started="2025-01-01T00:00:00+00:00")
    make_run(tmp_path / "outputs" / "dead", 0.1, "killed")
    record(tmp_path / "outputs" / "dead", started="2024-01-01T00:00:00+00:00")
    (tmp_path / "outputs" / "empty" / ".hydra").mkdir(parents=True)
    return tmp_path


CHOSEN = {
    "last": "sweeps/x/0c",
    "best:val/neg_elbo": "sweeps/x/0b",
    "best:val/neg_elbo:min": "sweeps/x/0b",
    "best:test/neg_elbo:max": "sweeps/y/0d",
    "outputs/sweeps/last": "sweeps/x/0c",
    "outputs/2026-01-01/best:val/neg_elbo": "2026-01-01/11-00-00-twin-abc124",
    "my first": "2026-01-01/10-00-00-first-abc123",
    "own": "own",
    "abc125": "2026-01-02/09-00-00-twin-abc125",
    "10-00-00-first-abc123": "2026-01-01/10-00-00-first-abc123",
    "outputs/sweeps/y": "sweeps/y/0d",
    "outputs/own": "own",
    "outputs/empty": "empty",
}
"""What is typed, and the run that it stands for."""


@pytest.mark.parametrize("typed", CHOSEN)
def test_a_run_is_chosen(place: Path, typed: str) -> None:
    expected = place / "outputs" / CHOSEN[typed]
    assert locate(typed, "best").folder == expected
    assert checkpoint_path(typed, "last").absolute() == expected / "checkpoints" / "last.ckpt"
    if typed != "outputs/empty":
        assert load_summary(typed) == json.loads((expected / "summary.json").read_text())


UNCLEAR = {
    "twin": (ValueError, r"run=twin: 2 runs have this name; name the folder of one: outputs/2026-01-02/\S+, outp"),
    "outputs/sweeps/x": (
        ValueError,
        r"run=outputs/sweeps/x is a folder of 3 runs; name one of them; the best by val/neg_elbo is"
        r" run=outputs/sweeps/x/0b, or run=outputs/sweeps/x/best:val/neg_elbo.\n"
        r"  outputs/sweeps/x/0b: nlatent=8, completed, val/neg_elbo 1.5\n",
    ),
    "outputs": (ValueError, r"is a folder of 10 runs;(.|\n)*outputs/dead: killed"),
    "best:val/elbo": (ValueError, "no completed run in outputs has val/elbo; choose one such as val/neg_elbo"),
    "best:val/neg_elbo:least": (ValueError, "least must be min or max"),
    "nowhere/last": (DataError, "run=nowhere/last: there is no run in "),
    "nowhere/best:val/neg_elbo": (DataError, "there is no run in"),
    "outputs/dead/best:val/neg_elbo": (DataError, "none of the 1 runs in"),
}  # fmt: skip


@pytest.mark.parametrize("typed", UNCLEAR)
def test_a_choice_that_is_not_clear_is_refused_with_what_there_is(place: Path, typed: str) -> None:
    kind, sentence = UNCLEAR[typed]
    with pytest.raises(kind, match=sentence):
        locate(typed, "best")


def test_the_best_of_different_images_is_not_chosen(place: Path) -> None:
    make_run(place / "outputs" / "others", 0.5, images="b")
    with pytest.raises(
        ValueError, match=r"2 sets of images.*run=outputs/others \(of 1\), run=outputs/sweeps/x/0b \(of 8\)"
    ):
        find_run("best:val/neg_elbo")


def test_what_exists_is_meant_before_names_and_what_does_not_stays_a_path(place: Path) -> None:
    (place / "last").mkdir()
    assert find_run("last") == Path("last")
    assert find_run("neither") == Path("neither")
    assert find_run("outputs/sweeps/x/neither") == Path("outputs/sweeps/x/neither")
    assert find_run("outputs/sweeps/x", several=True) == Path("outputs/sweeps/x")


def test_without_outputs_there_is_nothing_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_run("a") == Path("a")
    with pytest.raises(DataError, match="run=last: there is no run in"):
        find_run("last")


@pytest.fixture
def outputs(blobs_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a trained run and its copy in outputs/."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        shutil.copytree(blobs_run, tmp_path / "outputs" / name)
        record(tmp_path / "outputs" / name, started=f"2026-01-0{1 + (name == 'two')}T00:00:00+00:00")
    (tmp_path / "pictures").mkdir()
    return tmp_path


EVALUATED = (
    "nll_images=4",
    "nsamples=2",
    "ngenerated=16",
    "features=vgg",
    "nreplicates=5",
    "ngroups=2",
    "nreference=20",
)
COMMANDS = {
    "generate": (("run=last", "n=2"), "outputs/two/generated/grid.png"),
    "evaluate": (("run=best:val/neg_elbo", *EVALUATED), "outputs/two/evaluation-test.json"),
    "report": (("runs=[last,one]", "out=page.html"), "page.html"),
    "detect": (
        ("run=one", "images=pictures", "ncalibration=20", "nfit=20", "score=neg_elbo", "alpha=0.1"),
        "scores.csv",
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_choice(name: str, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, made = COMMANDS[name]
    record(outputs / "outputs" / "one", **{"val/neg_elbo": 1e9})
    invoke(
        import_module("vae_lab.generate").main, "generate", "run=two", "n=4", "out=pictures", monkeypatch=monkeypatch
    )
    threads = () if name == "report" else ("threads=1",)
    assert invoke(import_module(f"vae_lab.{name}").main, name, *words, *threads, monkeypatch=monkeypatch) == 0
    assert (outputs / made).is_file()


def test_every_function_takes_a_choice(outputs: Path) -> None:
    model = load_model("last")
    images = model.prior().mean  # any tensor on the CPU tells that the model was loaded
    assert images.device.type == "cpu"
    pixels = load_data_pixels("one")
    assert len(score_images("last", pixels, "neg_elbo", ncalibration=20, nfit=20, alpha=0.1).flagged) == 2


def load_data_pixels(run: str) -> Any:
    from vae_lab import load_data

    return load_data(run).splits.test.pixels(range(2))


def summary_of(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "summary.json").read_text())


def test_training_starts_from_and_continues_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> int:
        return invoke(train, "train", *words, monkeypatch=monkeypatch)

    assert typed(*TINY, "folder=outputs/first") == 0
    assert typed(*TINY, "folder=outputs/second", "init=last", "seed=1") == 0
    second = summary_of("outputs/second")
    assert second["init"]["run"] == str(tmp_path / "outputs" / "first")
    assert "init=outputs/first" in second["command"]
    assert typed("resume=last", "trainer.max_steps=4", "trainer.val_check_interval=4") == 0
    assert (summary_of("outputs/second")["steps"], summary_of("outputs/first")["steps"]) == (4, 2)
    assert typed(*TINY, "-m", "init=first,best:val/neg_elbo:max", "seed=3") == 0
    swept = sorted(json.loads(path.read_text())["init"]["run"] for path in Path("outputs/sweeps").rglob("summary.json"))
    worst = max(("first", "second"), key=lambda name: summary_of(f"outputs/{name}")["val/neg_elbo"])
    assert swept == sorted({str(tmp_path / "outputs" / "first"), str(tmp_path / "outputs" / worst)})


def test_names_are_found_for_a_notebook_too(
    config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vae_lab.training.run import train_run

    monkeypatch.chdir(tmp_path)
    train_run(config("name=start", folder="outputs/a"))
    summary = train_run(config("init=start", folder="outputs/b"))
    assert isinstance(summary["init"], dict)
    assert summary["init"]["run"] == str(tmp_path / "outputs" / "a")

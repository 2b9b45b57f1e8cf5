"""A run's name, tags and notes: in its folder's name, in summary.json and in the loggers."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from invoking import invoke
from omegaconf import DictConfig

from vae_lab.runs.configs import build
from vae_lab.runs.labels import read_labels
from vae_lab.sweeps.trial import digest
from vae_lab.train import main
from vae_lab.training.resume import check_stored

TINY = (
    "data=synthetic", "model=mlp", "model.encoder.width=8", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "threads=1", "~callbacks.latents", "~callbacks.gallery",
)  # fmt: skip
LABELS = ("name=my first: run", "tags=[draft,7]", "notes=see https://example.com/a, then b")
GIVEN = {"name": "my first: run", "tags": ["draft", "7"], "notes": "see https://example.com/a, then b"}


def test_a_run_carries_its_labels_and_leaves_everything_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = datetime.now().astimezone().replace(microsecond=0)
    assert invoke(main, "train", *TINY, *LABELS, "logger=wandb", monkeypatch=monkeypatch) == 0
    (path,) = tmp_path.rglob("summary.json")
    place = path.parent.relative_to(tmp_path)
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-my_first_run-[0-9a-f]{6}", str(place))
    assert [one.name for one in tmp_path.iterdir()] == ["outputs"]
    assert len([*(tmp_path / "outputs").glob("*/*")]) == 1
    summary = json.loads(path.read_text())
    assert {key: summary[key] for key in GIVEN} == GIVEN
    assert before <= datetime.fromisoformat(summary["started"])
    assert "'name=\"my first: run\"'" in summary["command"] or "name=my first: run" in summary["command"]


@pytest.mark.parametrize("setting", ["folder", "hydra.run.dir"])
def test_the_named_folder_holds_everything_of_a_named_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = (*TINY, "name=mine", f"{setting}=a/b", "logger=wandb", "trainer.profiler=simple")
    assert invoke(main, "train", *arguments, monkeypatch=monkeypatch) == 0
    assert [*tmp_path.rglob("summary.json")] == [tmp_path / "a" / "b" / "summary.json"]
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["b"]


WRONG = {
    "a path": ({"name": "a/b"}, "name='a/b' must have 1 to 64 printable"),
    "a wildcard": ({"name": "run*"}, "run=<name>"),
    "an empty name": ({"name": ""}, "name=''"),
    "a control character": ({"name": "a\x1b[2J"}, r"name='a\\x1b\[2J'"),
    "too long": ({"name": "x" * 65}, "1 to 64"),
    "a choice": ({"name": "last"}, "run=last chooses a run by itself"),
    "the best": ({"name": "best:rate"}, "run=best:rate chooses"),
    "a single tag": ({"tags": "draft"}, r"tags=draft must be a list; type tags=\[draft\]"),
    "a long tag": ({"tags": ["x" * 65]}, "tags: 'xxx"),
    "an empty tag": ({"tags": [""]}, "tags: ''"),
}


@pytest.mark.parametrize("name", WRONG)
def test_labels_that_cannot_be_used_are_refused(name: str) -> None:
    config, sentence = WRONG[name]
    with pytest.raises(ValueError, match=sentence):
        read_labels(config)


def test_labels_that_are_not_given_are_not_recorded() -> None:
    assert read_labels({"name": None, "tags": [], "notes": None}) == {}
    assert read_labels({"name": 7, "tags": [1], "notes": 2}) == {"name": "7", "tags": ["1"], "notes": "2"}


@pytest.mark.parametrize("arguments", [("-m", "seed=0,1", "name=a"), ("name=a/b",), ("tags=draft",), ("name=last",)])
def test_wrong_labels_end_the_command_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "train", *TINY, "logger=none", *arguments, monkeypatch=monkeypatch) == 2
    printed = [*caplog.messages, *"".join(capfd.readouterr()).splitlines()]
    assert any(line.startswith(arguments[-1].partition("=")[0]) for line in printed), printed
    assert not [*tmp_path.rglob("summary.json")]


def test_wandb_gets_the_labels(config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_NAME", "WANDB_TAGS", "WANDB_NOTES"):
        monkeypatch.delenv(name, raising=False)
    logger = build(config("logger=wandb", *map(quoted, LABELS)).logger.wandb)
    try:
        run = logger.experiment
        assert (run.name, list(run.tags), run.notes) == (GIVEN["name"], GIVEN["tags"], GIVEN["notes"])
    finally:
        logger.close(0)


def test_mlflow_gets_the_labels(config: Callable[..., DictConfig]) -> None:
    pytest.importorskip("mlflow")
    logger = build(config("logger=mlflow", *map(quoted, LABELS)).logger.mlflow)
    tags: dict[str, Any] = logger.experiment.get_run(logger.run_id).data.tags
    known = {key: tags.get(key) for key in ("mlflow.runName", "tags", "mlflow.note.content")}
    assert known == {"mlflow.runName": GIVEN["name"], "tags": "draft, 7", "mlflow.note.content": GIVEN["notes"]}


def quoted(text: str) -> str:
    """An override whose value Hydra takes as text, unless it is a list."""
    key, _, value = text.partition("=")
    return text if value.startswith("[") else f'{key}="{value}"'


def test_labels_change_no_trial_and_stay_when_a_run_is_resumed() -> None:
    assert digest(["seed=1", "tags=[a]", "notes=b"]) == digest(["seed=1"])
    check_stored("run", [*LABELS])
    with pytest.raises(ValueError, match="notes="):
        check_stored("run", ["notes=${oc.env:HOME}"])

"""Generated pictures and what they were made of."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from invoking import invoke
from PIL import Image

from vae_lab.generate import main
from vae_lab.runs.identity import file_digest
from vae_lab.runs.manifest import pictures_in, put_pictures, require_room
from vae_lab.system.config_dir import CONF

Trained = tuple[Path, dict[str, Any]]


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run, in the working directory."""
    shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, in this process."""
    return lambda *arguments: invoke(main, "generate", *arguments, monkeypatch=monkeypatch)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_pictures_of_an_earlier_call_do_not_stay(run: Path, generate: Any, capfd: pytest.CaptureFixture[str]) -> None:
    out = run / "generated"
    assert generate("run=run", "n=20", "seed=0") == 0
    assert len(pictures_in(out)) == 21
    assert generate("run=run", "n=4", "seed=1") == 0
    names = ["00000.png", "00001.png", "00002.png", "00003.png", "grid.png"]
    assert sorted(pictures_in(out)) == names
    assert sorted(path.name for path in out.iterdir()) == [*names, "manifest.json"]
    line = f"replacing 21 pictures of an earlier call in {out}: n=20 (here 4), seed=0 (here 1)"
    assert line in capfd.readouterr().out
    manifest = read(out / "manifest.json")
    weights = file_digest(run / "checkpoints" / "best.ckpt")
    expected = {"run": str(run), "checkpoint": "best", "weights": weights, "seed": 1, "n": 4, "sampler": "prior"}
    assert expected.items() <= manifest["made_of"].items()
    assert [image["file"] for image in manifest["images"]] == names


def test_pictures_of_others_are_refused(run: Path, generate: Any, capfd: pytest.CaptureFixture[str]) -> None:
    (run.parent / "mine").mkdir()
    Image.new("L", (8, 8)).save(run.parent / "mine" / "holiday.JPG", format="JPEG")
    for out in ("mine", "mine/holiday.JPG"):
        before = pictures_in(run.parent / out)
        assert generate("run=run", "n=4", f"out={out}") in (2, 5), out
        assert pictures_in(run.parent / out) == before
    assert "out=mine holds pictures that vae_lab did not write: 1, such as holiday.JPG; name another" in (
        "".join(capfd.readouterr())
    )
    shutil.copy(run.parent / "mine" / "holiday.JPG", run.parent / "grid.png")
    assert generate("run=run", "n=4", "out=grid.png") == 2
    (run.parent / "mine" / "holiday.JPG").rename(run.parent / "mine" / "notes.txt")
    assert generate("run=run", "n=4", "out=mine") == 0, "what is no picture is in nobody's way"
    assert (run.parent / "mine" / "notes.txt").exists()


def test_the_jobs_of_a_command_keep_each_others_pictures(
    run: Path, generate: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, run.parent / "other")
    assert generate("-m", "run=run,other", "n=4", "out=g.png") == 7
    manifest = read(run.parent / "g.png.json")
    assert manifest["made_of"]["run"] == str(run)
    printed = "".join(capfd.readouterr())
    assert "out=g.png holds the pictures of another call, with run=" in printed
    assert "give each job a folder of its own" in printed
    assert generate("-m", "run=run", "n=4", "out=g.png") == 0, "the same call again makes the same pictures"
    assert generate("run=other", "n=4", "out=g.png") == 0
    assert read(run.parent / "g.png.json")["made_of"]["run"] == str(run.parent / "other")


def test_the_class_of_each_picture_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generate: Any) -> None:
    from vae_lab.training.run import train_run

    small = ("data=synthetic", "model=mlp", "model.nclasses=10", "trainer.max_steps=2", "trainer.val_check_interval=2")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train_run(compose("train", [*small, "logger=none", "trainer.precision=32-true", f"folder={tmp_path / 'run'}"]))
    monkeypatch.chdir(tmp_path)
    assert generate("run=run", "n=6", "out=g") == 0
    drawn = [image.get("class") for image in read(tmp_path / "g" / "manifest.json")["images"]]
    assert drawn[-1] is None, "the grid has none"
    assert all(isinstance(label, int) for label in drawn[:-1])
    assert len(set(drawn[:-1])) > 1
    assert generate("run=run", "n=2", "class=all", "out=g") == 0
    images = read(tmp_path / "g" / "manifest.json")["images"]
    assert len(images) == 21
    assert [image["class"] for image in images[:-1]] == [i // 2 for i in range(20)]
    assert generate("run=run", "n=3", "class=4", "out=g") == 0
    assert [image.get("class") for image in read(tmp_path / "g" / "manifest.json")["images"]] == [4, 4, 4, None]
    assert not [path for path in (tmp_path / "g").iterdir() if path.is_dir()], "folders of classes are gone too"


def write_pictures(out: Path) -> list[str]:
    """Write two pictures, the second one first."""
    for name in ("b.png", "a.png"):
        Image.new("L", (8, 8)).save(out / name)
    return ["b.png", "a.png"]


def test_a_call_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    put_pictures(tmp_path, {"seed": 0}, write_pictures, [11, 2])
    listed = [{"file": "b.png", "class": 11}, {"file": "a.png", "class": 2}]
    assert read(tmp_path / "manifest.json")["images"] == listed, "in the order of the images, not of the names"

    def fail(out: Path) -> list[str]:
        write_pictures(out)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        put_pictures(tmp_path, {"seed": 1}, fail, [])
    assert read(tmp_path / "manifest.json")["made_of"] == {"seed": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "manifest.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made_of": {}, "images": [{"file": "../../x.png"}]}'])
def test_a_manifest_that_is_damaged_or_lies_makes_no_room(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for path in (tmp_path / "x.png", folder / "y.png"):
        Image.new("L", (8, 8)).save(path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"holds pictures that vae_lab did not write: 1, such as y\.png"):
        require_room(folder, {}, replace=True)
    (folder / "y.png").unlink()
    require_room(folder, {}, replace=True)
    put_pictures(folder, {"seed": 0}, write_pictures, [])
    assert (tmp_path / "x.png").exists()

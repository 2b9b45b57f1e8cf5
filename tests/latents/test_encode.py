"""Tables of latents: the same numbers in each kind of file, and a row for each file."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detecting import save_pictures
from invoking import invoke
from PIL import Image

from vae_lab.detection.scores.anomaly import NegELBO
from vae_lab.encode import main
from vae_lab.errors import DataError, FilesFailed
from vae_lab.latents import folder as encoding
from vae_lab.latents.encoding import encode_images, posteriors_of
from vae_lab.latents.folder import encode_folder
from vae_lab.runs.load import load_model
from vae_lab.training.run import train_run


@pytest.fixture(scope="module")
def pictures(blobs_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty blobs and eight of noise in two folders, and two files that are no pictures."""
    root = save_pictures(blobs_run, tmp_path_factory.mktemp("pictures"))
    (root / "normal" / "05-bad.png").write_text("no picture")
    (root / "=cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return root


def read_csv(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    nlatent = sum(name.startswith("mean_") for name in rows[0])
    found: dict[str, Any] = {name: [row[name] for row in rows] for name in ("path", "class", "reason")}
    found["score"] = np.array([float(row["score"] or "nan") for row in rows])
    for name in ("mean", "log_sigma"):
        found[name] = np.array([[float(row[f"{name}_{i}"] or "nan") for i in range(nlatent)] for row in rows])
    return found


def read_npz(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return {name: column.tolist() if column.dtype.kind == "U" else column for name, column in stored.items()}


def read_parquet(path: Path) -> dict[str, Any]:
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    rows = parquet.read_table(path).to_pylist()
    nlatent = len(rows[-1]["mean"])
    found: dict[str, Any] = {name: [row[name] for row in rows] for name in ("path", "class", "reason", "image")}
    found["score"] = np.array([np.nan if row["score"] is None else row["score"] for row in rows])
    return found | {name: np.array([row[name] or [np.nan] * nlatent for row in rows]) for name in ("mean", "log_sigma")}


READ: dict[str, Callable[[Path], dict[str, Any]]] = {"csv": read_csv, "npz": read_npz, "parquet": read_parquet}


@pytest.mark.parametrize("kind", READ)
def test_every_file_is_a_row(
    kind: str, blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'vae_lab[tables]'")
    monkeypatch.setattr(encoding, "BLOCK", 7)  # several blocks
    out = tmp_path / f"latents.{kind}"
    with pytest.raises(FilesFailed, match="2 of 30 files could not be encoded; the reasons are in"):
        encode_folder(run=blobs_run, images=str(pictures), out=out, score=NegELBO(nsamples=2, seed=0))
    table = READ[kind](out)
    names = sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))
    assert [path.removeprefix("'") for path in table["path"]] == names
    assert table["class"] == ["" if "/" not in name else name.partition("/")[0] for name in names]
    bad = {name: reason for name, reason in zip(names, table["reason"], strict=True) if reason}
    assert bad == {"=cut.png": "damaged or cut short", "normal/05-bad.png": bad["normal/05-bad.png"]}
    model, good = load_model(blobs_run), [i for i, name in enumerate(names) if name not in bad]
    images = torch.stack([torch.from_numpy(np.array(Image.open(pictures / names[i])))[None] / 255 for i in good])
    with torch.no_grad():
        mean, log_sigma = (numbers.numpy() for numbers in posteriors_of(model, images))
        score = NegELBO(nsamples=2, seed=0)(model, images).numpy()
    for name, expected in (("mean", mean), ("log_sigma", log_sigma), ("score", score)):
        np.testing.assert_allclose(table[name][good], expected, rtol=1e-4, atol=1e-4)
        assert np.isnan(table[name][[names.index(one) for one in bad]]).all()
    if kind == "parquet":
        check_pictures(table["image"], images, good)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_one_number_that_is_not_finite_spoils_its_row_alone(
    blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*args: Any) -> Any:
        found = posteriors_of(*args)
        found[0][3, 1] = torch.nan
        return found

    monkeypatch.setattr(encoding, "posteriors_of", spoilt)
    good = sorted(path for path in (pictures / "normal").iterdir() if "bad" not in path.name)[:5]
    with pytest.raises(FilesFailed, match="1 of 5 files could not be encoded"):
        encode_folder(run=blobs_run, images=[str(path) for path in good], out=tmp_path / "latents.csv")
    reasons = read_csv(tmp_path / "latents.csv")["reason"]
    assert list(reasons) == ["", "", "", "the model gives no finite numbers", ""]


def check_pictures(column: list[Any], images: torch.Tensor, good: list[int]) -> None:
    """Assert that a column holds the pictures, and null for files that are none."""
    import io

    assert [i for i, image in enumerate(column) if image] == good
    for i, expected in zip(good, images, strict=True):
        stored = np.array(Image.open(io.BytesIO(column[i]["bytes"])))
        assert torch.from_numpy(stored).equal((expected[0] * 255).round().to(torch.uint8))


def test_the_rows_do_not_depend_on_the_blocks(
    blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (3, 1000):
        monkeypatch.setattr(encoding, "BLOCK", size)
        assert encode_folder(run=blobs_run, images=[pictures / "strange"], out=tmp_path / f"{size}.csv") == 8
    few, many = read_csv(tmp_path / "3.csv"), read_csv(tmp_path / "1000.csv")
    np.testing.assert_allclose(few["mean"], many["mean"], rtol=1e-5, atol=1e-6)
    assert np.isnan(few["score"]).all()


@pytest.fixture(scope="module")
def conditional(made_once: Callable[..., Path]) -> Path:
    """A run with the classes of the digits."""
    small = ["data=digits", "model=mlp", "model.encoder.width=16", "model.nlatent=2", "model.nclasses=10"]
    short = ["trainer.max_steps=4", "trainer.val_check_interval=4", "logger=none", "threads=1"]
    return made_once("conditional digits", lambda folder: train_run([*small, *short, f"folder={folder}"]))


def test_a_conditional_run_needs_classes(conditional: Path, pictures: Path, tmp_path: Path) -> None:
    for which in (None, "all"):
        with pytest.raises(ValueError, match="conditional on 10 classes; name that of the images with class=, or type"):
            encode_folder(run=conditional, images=str(pictures), out=tmp_path / "t.csv", which=which)
    folders = tmp_path / "pictures"
    for name in ("3", "7", "x"):
        shutil.copytree(pictures / "strange", folders / name)
    with pytest.raises(FilesFailed, match="8 of 24"):
        encode_folder(run=conditional, images=folders, out=tmp_path / "t.npz", which="subfolders")
    table = read_npz(tmp_path / "t.npz")
    assert {*table["reason"]} == {"", "its folder 'x' is not named like a class of the run"}
    model, files = load_model(conditional), [folders / "3" / f"{i}.png" for i in range(8)]
    for start, label in ((0, 3), (8, 7)):
        expected = encode_images(model, files, label=label).numpy()
        np.testing.assert_allclose(table["mean"][start : start + 8], expected, rtol=1e-5, atol=1e-6)
    encode_folder(run=conditional, images=folders / "x", out=tmp_path / "t.npz", which=7)
    again = read_npz(tmp_path / "t.npz")
    np.testing.assert_allclose(again["mean"], expected, rtol=1e-5, atol=1e-6)
    assert again["class"] == ["7"] * 8


def test_a_ladder_has_the_latents_of_all_groups(
    tmp_path: Path, config: Any, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run(config("model=ladder_mlp", "model.encoder.width=8", folder="ladder"))
    model = load_model(tmp_path / "ladder")
    with caplog.at_level("INFO"):
        encode_folder(run=tmp_path / "ladder", images=pictures / "strange", out=tmp_path / "t.npz")
    assert "groups, from the top down" in caplog.text
    assert read_npz(tmp_path / "t.npz")["mean"].shape == (8, model.nlatent)


def test_other_files_are_not_overwritten(blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("a.csv", "a.npz"):
        (tmp_path / name).write_text("mine")
        settings: dict[str, Any] = {"run": blobs_run, "images": pictures / "strange", "out": tmp_path / name}
        with pytest.raises(ValueError, match="is not a table of encode; choose another out=, or force=true"):
            encode_folder(**settings)
        assert (tmp_path / name).read_text() == "mine"
        assert encode_folder(**settings, force=True) == 8
        assert encode_folder(**settings) == 8, "its own table"
    with pytest.raises(ValueError, match=r"the ending of out= must be one of \.csv, \.parquet, \.npz, not \.txt"):
        encode_folder(run=blobs_run, images=pictures, out=tmp_path / "a.txt")
    shutil.copy(pictures / "strange" / "0.png", tmp_path / "0.png")
    with pytest.raises(FilesFailed, match="1 of 2"):  # a.npz, but not the table itself
        encode_folder(run=blobs_run, images=tmp_path, out=tmp_path / "a.csv")
    (tmp_path / "empty").mkdir()
    shutil.copy(tmp_path / "a.csv", tmp_path / "empty")
    with pytest.raises(DataError, match=r"holds no files other than out="):
        encode_folder(run=blobs_run, images=tmp_path / "empty", out=tmp_path / "empty" / "a.csv")


COMMANDS = {
    "a table": ((), 0, "8 of 8 files encoded, 4 latents each"),
    "no score": (("scored=false",), 0, "8 of 8 files"),
    "a score with a fit": (("score=typicality",), 2, "choose one that needs a model alone"),
    "several scores": (("score=all",), 2, "choose one that needs a model alone"),
    "a score of ladders": (("score=ladder_llr",), 2, "use a ladder"),
    "a class": (("class=3",), 2, "the run's model is unconditional; leave class out"),
    "no run": (("run=nowhere",), 3, "there is no checkpoint at"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_ends_with_a_sentence(  # noqa: PLR0917
    name: str, blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, code, said = COMMANDS[name]
    line = (f"run={blobs_run}", f"images={pictures / 'strange'}", "threads=1", *settings)
    found = invoke(main, "encode", *line, monkeypatch=monkeypatch)
    output = "".join(capfd.readouterr()) + caplog.text
    assert (found, said in output) == (code, True), output
    assert (tmp_path / "latents.csv").exists() == (code == 0)

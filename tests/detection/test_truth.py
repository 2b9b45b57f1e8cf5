"""What is known of the images, as a folder or as a table, and what detection makes of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
from detecting import HOW, judge, save_pictures, small, table

from vae_lab.detection.calibration import load_detector
from vae_lab.detection.ground_truth import LabelledRows, report_truth
from vae_lab.detection.journal import Row
from vae_lab.errors import DataError, FilesFailed

ERROR = {"score": small("reconstruction_error")}


@pytest.fixture(scope="module")
def run(blobs_run: Path) -> Path:
    """A run on blobs."""
    return blobs_run


@pytest.fixture(scope="module")
def pictures(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal images and noise."""
    return save_pictures(run, tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def mixed(pictures: Path, tmp_path: Path) -> Path:
    """Normal images, and noise whose names begin with s."""
    shutil.copytree(pictures / "normal", tmp_path / "mixed")
    for path in (pictures / "strange").iterdir():
        shutil.copy(path, tmp_path / "mixed" / f"s{path.name}")
    return tmp_path / "mixed"


def test_the_truth_gives_numbers_and_a_plot(run: Path, pictures: Path, tmp_path: Path) -> None:
    change = {"score": small("reconstruction_error"), "truth": str(pictures / "strange")}
    judge(run, pictures / "normal", tmp_path / "t.csv", change)
    found = json.loads((tmp_path / "t-truth.json").read_text())
    area = found["score"]["auroc"]
    assert 0.8 < area["low"] <= area["value"] <= area["high"]
    assert (found["nnormal"], found["nanomalous"]) == (20, 8)
    assert [row["flagged"] for row in table(tmp_path / "t-truth.csv")] == ["1"] * 8
    for name in ("t-roc.png", "t-truth-heat.png", "t-truth-strangest.png"):
        assert (tmp_path / name).stat().st_size > 2000


def test_the_truth_may_be_a_table(run: Path, mixed: Path, tmp_path: Path) -> None:
    lines = [f"{path.name},{int(path.name[0] == 's')}" for path in sorted(mixed.iterdir())]
    change = {"score": small("reconstruction_error"), "truth": str(tmp_path / "truth.csv")}
    (tmp_path / "truth.csv").write_text("path,anomalous\n" + "\n".join(lines[1:]))
    judge(run, mixed, tmp_path / "t.csv", change)
    found = json.loads((tmp_path / "t-truth.json").read_text())
    assert (found["nnormal"], found["nanomalous"]) == (19, 8)
    assert found["score"]["auroc"]["value"] > 0.9
    for content, message in {
        "path,anomalous\n00.png,0": "at least one image as normal",
        "path,anomalous\nno.png,0": "'no.png', which is not among the images",
        "path,anomalous\n00.png,2": "must be a CSV with the columns",
        "name\n00.png": "must be a CSV with the columns",
        "path,anomalous\n00.png,0\ns0.png,1\n00.png,1": "'00.png' more than once",
        "path,anomalous\n00.png,0\ns0.png,1\n00.png,0": "'00.png' more than once",
    }.items():
        (tmp_path / "truth.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            judge(run, mixed, tmp_path / "t.csv", change)


def test_the_truth_is_read_before_anything_is_scored(run: Path, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("path,anomalous\n00.png,0\nno.png,1")
    with pytest.raises(DataError, match=r"'no\.png', which is not among the images"):
        judge(run, mixed, tmp_path / "t.csv", {"truth": str(tmp_path / "truth.csv")})
    assert not list(tmp_path.glob("*t.csv*"))


def test_a_table_of_excel_is_read(run: Path, mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(b"\xef\xbb\xbfpath,anomalous\r\n00.png,0\r\ns0.png,1\r\n")
    judge(run, mixed, tmp_path / "t.csv", ERROR | {"truth": str(tmp_path / "truth.csv")})
    assert json.loads((tmp_path / "t-truth.json").read_text())["nanomalous"] == 1


def test_a_table_named_as_ours_would_be_is_read_and_kept(run: Path, mixed: Path, tmp_path: Path) -> None:
    labels = tmp_path / "t-truth.csv"
    labels.write_text("path,anomalous\n00.png,0\ns0.png,1")
    judge(run, mixed, tmp_path / "t.csv", {"truth": str(labels)})
    assert labels.read_text() == "path,anomalous\n00.png,0\ns0.png,1"


def test_a_pipe_is_no_truth(run: Path, mixed: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "truth.csv")
    with pytest.raises(DataError, match="must be a CSV"):
        judge(run, mixed, tmp_path / "t.csv", {"truth": str(tmp_path / "truth.csv")})


def test_anomalies_inside_the_images_are_not_normal_too(run: Path, pictures: Path, tmp_path: Path) -> None:
    everything = Path(shutil.copytree(pictures, tmp_path / "everything"))
    judge(run, everything, tmp_path / "t.csv", ERROR | {"truth": str(everything / "strange")})
    found = json.loads((tmp_path / "t-truth.json").read_text())
    assert (found["nnormal"], found["nanomalous"]) == (20, 8)
    assert all(row["path"].startswith("normal") for row in table(tmp_path / "t.csv"))
    with pytest.raises(DataError, match="holds no files other than"):
        judge(run, everything / "normal", tmp_path / "t.csv", {"truth": str(everything)})


def test_a_table_beside_the_images_is_no_image(run: Path, mixed: Path, tmp_path: Path) -> None:
    (mixed / "truth.csv").write_text("path,anomalous\n00.png,0\ns0.png,1")
    assert len(judge(run, mixed, tmp_path / "t.csv", {"truth": str(mixed / "truth.csv")})) == 28
    with pytest.raises(FilesFailed, match="1 of 29"):
        judge(run, mixed, tmp_path / "t.csv")


@pytest.mark.parametrize("inverted", [True, False])
def test_scores_that_are_upside_down_are_named(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, inverted: bool
) -> None:
    high, low = ([Row(str(i), {"score": float(i + j), "seen": 0.0}, "") for i in range(20)] for j in (5, 0))
    detector = load_detector(run, small("neg_elbo"), HOW)
    report_truth(detector, LabelledRows(high, low) if inverted else LabelledRows(low, high), tmp_path / "t.csv", 20)
    assert ("score is inverted here: an anomalous image scores below a normal one in 70" in caplog.text) == inverted

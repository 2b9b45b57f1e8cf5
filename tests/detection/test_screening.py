"""The command: which files it judges, what it writes where, and how it ends."""

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from detecting import QUICK, judge, save_pictures, small, table
from invoking import invoke
from PIL import Image
from torch import Tensor

from vae_lab.data.files.places import find, find_all
from vae_lab.data.grids import to_uint8
from vae_lab.detect import main
from vae_lab.detection.detector import RunDetector
from vae_lab.detection.figures import contact_sheet
from vae_lab.detection.score_folder import warn_if_inverted
from vae_lab.detection.scores.anomaly import Score
from vae_lab.errors import DataError, FilesFailed
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.load import load_data, load_model
from vae_lab.training.run import train_run

ERROR = {"score": small("reconstruction_error")}


@pytest.fixture(scope="module")
def run(blobs_run: Path) -> Path:
    """A run on blobs."""
    return blobs_run


@pytest.fixture(scope="module")
def pictures(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal images and noise."""
    return save_pictures(run, tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("out", ["t", "t.json", "t.png", "", ".csv", None, "folder.csv", "pipe.csv"])
def test_a_place_where_no_table_can_lie_is_refused(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"must name a \.csv|exists and is not a file"):
        judge(run, pictures / "normal", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "pipe.csv"]


@pytest.mark.parametrize("name", ["t.csv", "t-truth.csv"])
def test_a_table_of_somebody_else_is_kept(run: Path, pictures: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("path,anomalous\n00.png,0\n")
    change = {"truth": str(pictures / "strange")}
    with pytest.raises(ValueError, match=f"{name} is not a table of detect; .* force=true"):
        judge(run, pictures / "normal", tmp_path / "t.csv", change)
    assert (tmp_path / name).read_text() == "path,anomalous\n00.png,0\n"
    for force in (True, False):  # then it is a table of detect's
        judge(run, pictures / "normal", tmp_path / "t.csv", change | {"force": force})
    assert len(table(tmp_path / name)) > 1


def test_what_an_earlier_call_wrote_is_no_image(run: Path, pictures: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(pictures / "normal", tmp_path / "images"))
    change = ERROR | {"truth": str(pictures / "strange")}
    for _ in range(2):
        assert len(judge(run, images, images / "scores.csv", change)) == 28
        assert len(table(images / "scores.csv")) == 20
    assert len(list(images.iterdir())) > 25
    with pytest.raises(DataError, match="holds no files other than"):
        judge(run, images / "scores-roc.png", images / "scores.csv")


NAMES = [
    b"\xff\xfe.png",
    "ÿ ☂ 🎈.png".encode(),
    b"=cmd().png",
    b"+1.png",
    b"-1.png",
    b"@a.png",
    b"a\rb.png",
    b"a\nb.png",
]
NAMES += [b"\t.png", b"'=a.png", b'a,"b".png', rb"back\xslash.png", b"x" * 251 + b".png"]


def test_any_file_name_is_a_row_that_the_truth_can_name(run: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in NAMES:
        shutil.copy(pictures / "normal" / "00.png", tmp_path / "images" / os.fsdecode(name))
    judge(run, tmp_path / "images", tmp_path / "t.csv")
    content = (tmp_path / "t.csv").read_bytes()
    assert content.count(b"\n") == len(NAMES) + 1
    assert b"\r" not in content
    found = [row["path"] for row in table(tmp_path / "t.csv")]
    assert len(set(found)) == len(NAMES)
    assert not any(path.startswith(("=", "+", "-", "@", "\t")) for path in found)
    for named in (found, [os.fsdecode(name) for name in NAMES]):
        with (tmp_path / "truth.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            csv.writer(file).writerows([["path", "anomalous"], *([name, i % 2] for i, name in enumerate(named))])
        judge(run, tmp_path / "images", tmp_path / "t.csv", {"truth": str(tmp_path / "truth.csv")})


def test_what_is_left_out_of_the_images_is_said(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = [Image.effect_noise((64, 16), 100) for _ in range(2)]
    (tmp_path / "images").mkdir()
    noise[0].save(tmp_path / "images" / "a.tif", save_all=True, append_images=noise[1:])
    judge(run, tmp_path / "images", tmp_path / "t.csv")
    assert any(line.startswith("1 more pages or frames in 1 files are left out") for line in caplog.messages)
    assert any(line.startswith("75 % of the median picture lies outside its central") for line in caplog.messages)


def test_a_folder_without_a_readable_image_is_a_table_of_reasons(run: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "a.png").write_bytes(b"no image")
    with pytest.raises(FilesFailed, match="1 of 1 files"):
        judge(run, tmp_path / "no", tmp_path / "t.csv", {"score": small("iwae_nll")})
    assert [row["reason"] for row in table(tmp_path / "t.csv")] != [""]


def test_several_files_and_folders_are_judged_together(run: Path, pictures: Path, tmp_path: Path) -> None:
    normal = pictures / "normal"
    judge(run, [str(normal / "03.png"), str(normal / "01.png"), str(normal / "01.png")], tmp_path / "t.csv")
    assert [row["path"] for row in table(tmp_path / "t.csv")] == ["01.png", "03.png"]
    place = find_all([normal / "01.png", pictures / "strange", pictures / "strange" / "2.png"])
    assert [file.path for file in place.files] == ["normal/01.png", *(f"strange/{i}.png" for i in range(8))]
    assert place.root == pictures


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        find(tmp_path / "pipe.png")


def test_the_sheet_begins_with_the_strangest(run: Path, pictures: Path, tmp_path: Path) -> None:
    images = Path(shutil.copytree(pictures / "normal", tmp_path / "images"))
    edges = torch.arange(16).remainder(2).mul(255).to(torch.uint8).repeat(16, 1)  # the model is smooth
    Image.fromarray(edges.numpy()).save(images / "edges.png")
    rows = judge(run, images, tmp_path / "t.csv", ERROR | {"nshown": 1})
    assert max(rows, key=lambda row: row.values["score"]).path == "edges.png"
    with Image.open(images / "edges.png") as image:
        pixels = torch.tensor(list(image.tobytes())).view(1, 1, 16, 16) / 255
    row = next(row for row in table(tmp_path / "t.csv") if row["path"] == "edges.png")
    score, p = (torch.tensor([float(row[name])]).double() for name in ("score", "p_value"))
    sheet = contact_sheet(pixels, score, p, ["edges.png"], torch.tensor([row["flagged"] == "1"]))
    sheet.savefig(tmp_path / "expected.png", dpi=110)
    with Image.open(tmp_path / "expected.png") as expected, Image.open(tmp_path / "t-strangest.png") as found:
        assert expected.tobytes() == found.tobytes()


def test_numbers_keep_their_digits(run: Path, pictures: Path, tmp_path: Path) -> None:
    rows = judge(run, pictures / "normal", tmp_path / "t.csv")
    for row, written in zip(rows, table(tmp_path / "t.csv"), strict=True):
        assert torch.tensor(float(written["score"])) == torch.tensor(row.values["score"])  # in single precision


class Brightness(Score):
    """A score that calls black images most normal."""

    def forward(self, model: LatentModel, images: Tensor) -> Tensor:
        return images.sum((1, 2, 3))


def test_a_score_that_likes_black_is_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = RunDetector(load_model(run), Brightness(), torch.arange(50, 60).double(), binary=False, key="")
    warn_if_inverted(detector)
    assert "plain black image scores below 100 % of normal images" in caplog.text
    assert "white" not in caplog.text


@pytest.fixture
def folders(tmp_path: Path, config: Any) -> Path:
    """A run on a folder of images that shows black where they are transparent, and takes only small ones."""
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "images").mkdir()
    for i in range(60):
        pixels = torch.randint(0, 256, (16, 16), generator=generator).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "images" / f"{i:02}.png")
    data = ["data=folder", f"data.root={tmp_path / 'images'}", "data.image_size=16", "data.channels=1"]
    rules = ["data.background=0", "data.max_pixels=300", "data.val_fraction=0.4", "data.batch_size=10"]
    train_run(config(*data, *rules, "model=mlp", "model.encoder.width=8", folder="folders"))
    return tmp_path / "folders"


def test_files_are_decoded_as_the_runs_own(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    Image.new("LA", (16, 16), (200, 0)).save(tmp_path / "new" / "clear.png")
    Image.new("L", (16, 16), 0).save(tmp_path / "new" / "black.png")
    Image.new("L", (20, 20), 0).save(tmp_path / "new" / "large.png")
    with pytest.raises(FilesFailed, match="1 of 3"):
        judge(folders, tmp_path / "new", tmp_path / "t.csv", {"ncalibration": 20})
    black, clear, large = table(tmp_path / "t.csv")
    assert float(black["score"]) == pytest.approx(float(clear["score"]), rel=1e-6)
    assert "400" in large["reason"]


def test_a_runs_images_may_have_moved(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        judge(folders, tmp_path / "moved", tmp_path / "t.csv", {"ncalibration": 20})
    rows = judge(folders, tmp_path / "moved", tmp_path / "t.csv", {"ncalibration": 20, "root": str(tmp_path / "moved")})
    assert len(rows) == 60
    judge(folders, tmp_path / "moved", tmp_path / "t.csv", {"ncalibration": 20})  # the calibration was kept


def test_the_command_ends_as_documented(  # noqa: PLR0917
    run: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = Path(shutil.copytree(pictures / "normal", tmp_path / "bad"))
    (bad / "no.png").write_bytes(b"no image")
    few = [f"{key}={value}" for key, value in QUICK.items() if key.startswith("n")]
    normal, some = pictures / "normal", f"[{pictures / 'normal' / '01.png'},{pictures / 'normal' / '02.png'}]"
    for code, sentence, arguments in (
        (0, "images flagged at alpha", [f"images={normal}"]),
        (0, "of 2 images flagged", [f"images={some}", "out=some.csv"]),
        (2, "alpha must lie in (0, 1), not abc", [f"images={normal}", "alpha=abc"]),
        (2, "alpha must lie in (0, 1), not None", [f"images={normal}", "alpha=null"]),
        (2, "must name a .csv", [f"images={normal}", "out=scores"]),
        (3, "/nowhere cannot be read", ["images=/nowhere"]),
        (3, "none of the anomalous ones could be scored", [f"images={normal}", f"truth={bad / 'no.png'}"]),
        (7, "1 of 21 files could not be scored", [f"images={bad}", "out=bad.csv"]),
    ):
        found = invoke(main, "detect", f"run={run}", *few, *arguments, monkeypatch=monkeypatch)
        output = "".join(capfd.readouterr()) + caplog.text
        caplog.clear()
        assert (found, sentence in output) == (code, True), (arguments, output)
    assert len(table(tmp_path / "scores.csv")) == 20
    assert len(table(tmp_path / "bad.csv")) == 21


def test_a_tensor_is_judged_as_its_file(run: Path, pictures: Path) -> None:
    pixels = load_data(run).splits.test.pixels(slice(2))
    assert torch.equal(to_uint8(pixels.float().div(255).requires_grad_()), pixels)

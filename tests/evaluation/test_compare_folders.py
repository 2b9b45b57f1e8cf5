"""`evaluate images= against=`: its files, its messages about bad files, and the settings that it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from invoking import invoke
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from vae_lab.errors import DataError
from vae_lab.evaluate import main
from vae_lab.evaluation.folders import compare_folders, describe_comparison
from vae_lab.evaluation.sources import Place, read_data, read_samples
from vae_lab.runs.inference import every_pixel
from vae_lab.training.run import train_run

SMALL: dict[str, Any] = {
    "image_size": 16, "checkpoint": "best", "root": None, "seed": 0, "device": "cpu", "features": "vgg",
    "ngenerated": 12, "ngroups": 2, "nreplicates": 2, "k": 2,
}  # fmt: skip


def write_pictures(folder: Path, n: int, seed: int, brightness: float = 1.0) -> Path:
    """Pictures of 24x20 pixels with coarse random patches."""
    folder.mkdir()
    patches = torch.rand(n, 3, 5, 6, generator=torch.Generator().manual_seed(seed)) * brightness
    for number, picture in enumerate(patches.repeat_interleave(4, -1).repeat_interleave(4, -2)):
        to_pil_image(picture).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_pictures(tmp_path / "dark", 10, 1, 0.4), write_pictures(tmp_path / "bright", 14, 2)


@pytest.fixture
def colours(config: Callable[..., Any], tmp_path: Path) -> Path:
    """A run on pictures of 16x16 pixels in colour."""
    train_run(config("data.channels=3", "model=mlp", "model.encoder.width=8", "model.nlatent=2"))
    return tmp_path / "run"


def test_two_folders_are_compared(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = compare_folders(*folders, tmp_path / "out", **SMALL)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == result
    row = result["comparison"]
    assert (row["nimages"], row["nreference"], row["k"], row["fid_vgg"], row["identical"]) == (10, 14, 2, None, 0)
    assert row["kid_vgg"]["low"] > 0
    same = compare_folders(folders[1], folders[1], tmp_path / "same", **SMALL)["comparison"]
    assert same["identical"] == 14
    assert same["kid_vgg"]["value"] < 0.1 * row["kid_vgg"]["value"]
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert all(name in page for name, _ in describe_comparison(result))
    with Image.open(tmp_path / "out" / "comparison.png") as panel:
        assert panel.convert("L").entropy() > 0.5


def test_bad_files_are_rows_and_the_exit_code_is_7(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (folders[0] / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folders[0] / "notes.txt").write_text("no picture")
    arguments = ["images=dark", "against=bright", "features=vgg", "ngroups=2", "k=2", "threads=1", "out=dark"]
    assert [invoke(main, "evaluate", *arguments, monkeypatch=monkeypatch) for _ in range(2)] == [7, 7]
    printed = capfd.readouterr().out
    assert printed.count("10 against 14, 64 pixels a side") == 2  # not its own picture of the first call
    assert "images: skipped notes.txt: not an image (JPEG, PNG, WebP, BMP, TIFF or GIF)" in printed
    bad = json.loads((folders[0] / "comparison.json").read_text())["bad"]
    assert [row["path"] for row in bad["images"]] == ["broken.png", "notes.txt"]
    assert bad["against"] == []


def test_a_run_is_compared_by_its_samples_with_all_images_of_a_data_set(colours: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = SMALL | {"image_size": None}
    result = compare_folders(colours, colours, tmp_path / "out", **settings)
    assert (result["comparison"]["nimages"], result["comparison"]["nreference"]) == (12, 64)
    assert result["protocol"]["image_size"] == 16
    place = Place("images", colours, "best", None, None)
    first, again = (every_pixel(read_samples(place, 12, seed, torch.device("cpu")).images) for seed in (0, 1))
    assert not torch.equal(first, again)
    assert len(read_data(place).images) == 64
    folder = write_pictures(tmp_path / "pictures", 9, 3)
    assert compare_folders(folder, colours, tmp_path / "out", **settings)["protocol"]["image_size"] == 16


def test_grey_runs_are_compared_in_three_channels(
    trained: tuple[Path, Any], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    result = compare_folders(trained[0], folders[1], tmp_path / "out", **SMALL)
    assert result["comparison"]["nimages"] == 12


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"images": "few"}, DataError, "few holds 3 usable images of 3 files; name a folder with at least 4"),
    ({"images": "nowhere"}, DataError, "nowhere does not exist; name a folder of images, or a run folder"),
    ({"images": "dark/00.png"}, DataError, "is not a folder"),
    ({"against": "run", "image_size": 32}, ValueError, "the image size is 16 of against=, and image_size=32"),
    ({"image_size": 0}, ValueError, "image_size must be a whole number"),
    ({"ngroups": 1}, ValueError, "ngroups must be a whole number of at least 2"),
    ({"features": "magic"}, ValueError, "features must be one of auto"),
    ({"ngenerated": 0, "images": "run"}, ValueError, "ngenerated must be a whole number of at least 4"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG, ids=str)
def test_what_cannot_be_compared_is_one_sentence(  # noqa: PLR0917
    change: dict[str, Any],
    kind: type[Exception],
    message: str,
    folders: tuple[Path, Path],
    trained: tuple[Path, Any],
    tmp_path: Path,
) -> None:
    write_pictures(tmp_path / "few", 3, 3)
    (tmp_path / "run").symlink_to(trained[0])
    settings: dict[str, Any] = {"images": "dark", "against": "bright"} | SMALL | change
    images, against = (tmp_path / settings.pop(name) for name in ("images", "against"))
    with pytest.raises(kind, match=message):
        compare_folders(images, against, tmp_path / "out", **settings)
    assert not list((tmp_path / "out").glob("*"))

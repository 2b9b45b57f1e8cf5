"""Reconstructions and interpolations of files, as pictures that replace those of an earlier call."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detecting import save_pictures
from invoking import invoke
from PIL import Image

from vae_lab.data.grids import grid, paired, to_uint8
from vae_lab.errors import DataError, FilesFailed
from vae_lab.latents import folder
from vae_lab.latents.encoding import encode_images, reconstruct_images
from vae_lab.latents.interpolation import interpolate_images
from vae_lab.latents.picture_files import Settings, interpolate_files, reconstruct_files, traverse_files
from vae_lab.latents.traversal import latent_direction, traverse_images
from vae_lab.runs.load import load_model


@pytest.fixture(scope="module")
def pictures(blobs_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty blobs and eight of noise."""
    return save_pictures(blobs_run, tmp_path_factory.mktemp("pictures"))


def pixels(path: Path) -> torch.Tensor:
    """The pixels of a PNG, [channels, height, width]."""
    found = torch.from_numpy(np.array(Image.open(path)))
    return found[None] if found.ndim == 2 else found.permute(2, 0, 1)


def below_words(path: Path, expected: torch.Tensor) -> torch.Tensor:
    """The pixels of a PNG below its caption and beside the texts of its rows, of the size of a grid."""
    found = pixels(path)
    top, (height, width) = found.shape[1] - expected.shape[1], expected.shape[1:]
    left = next(left for left in range(found.shape[2]) if (found[:, top, left] < 128).all())  # the gap's grey
    assert top > 20
    return found[:, top:, left : left + width][:, :height]


def test_reconstructions_are_those_of_the_model(
    blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "BLOCK", 7)  # several blocks
    (tmp_path / "some").mkdir()
    files = sorted((pictures / "normal").iterdir())
    for file in files:
        (tmp_path / "some" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "some" / "bad.png").write_text("no picture")
    out = tmp_path / "some" / "made"
    for _ in range(2):  # the second call neither reads nor refuses the pictures of the first
        with pytest.raises(FilesFailed, match="1 of 21 files could not be reconstructed"):
            reconstruct_files(Settings(blobs_run, tmp_path / "some", out), nshown=3)
    expected = reconstruct_images(load_model(blobs_run), files)
    names = [f"{i:05d}-{i:02d}.png" for i in range(20)]
    assert sorted(path.name for path in out.iterdir()) == [*names, "grid.png", "manifest.json"]
    for name, image in zip(names, expected, strict=True):
        assert (pixels(out / name).int() - to_uint8(image).int()).abs().max() <= 1
    originals = torch.stack([pixels(file) for file in files[:3]]) / 255
    shown = grid(paired(originals, expected[:3], 3), 3)
    assert (below_words(out / "grid.png", shown).int() - shown.int()).abs().max() <= 1
    assert reconstruct_files(Settings(blobs_run, pictures, tmp_path / "a.png"), nshown=5) == 5
    assert json.loads((tmp_path / "a.png.json").read_text())["made_of"]["nshown"] == 5
    with pytest.raises(DataError, match="holds no usable picture"):
        reconstruct_files(Settings(blobs_run, tmp_path / "some" / "bad.png", tmp_path / "b.png"))


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_an_interpolation_is_a_row_or_files(path: str, blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    two = [pictures / "normal" / "00.png", pictures / "normal" / "01.png"]
    expected = interpolate_images(load_model(blobs_run), two, 5, path=path)
    for out in (tmp_path / "row.png", tmp_path / "files"):
        found = interpolate_files(Settings(blobs_run, list(map(str, two)), out), n=5, path=path)
        torch.testing.assert_close(found, expected)
    for name in ("row.png", "files/grid.png"):
        assert below_words(tmp_path / name, grid(expected, 5)).equal(grid(expected, 5))
    assert all(pixels(tmp_path / "files" / f"{i:05d}.png").equal(to_uint8(image)) for i, image in enumerate(expected))


def test_a_traversal_moves_one_latent_at_a_time(blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    model, files = load_model(blobs_run), sorted((pictures / "normal").iterdir())
    latents, rates, images = traverse_images(model, files, 5, nlatents=3, reach=2.0)
    with torch.no_grad():
        posterior: Any = model.posterior(torch.stack([pixels(file) for file in files]) / 255)
        kl = 0.5 * (posterior.mean.square() + posterior.variance - 1) - posterior.log_sigma
        assert latents == kl.mean(0).argsort(descending=True)[:3].tolist()
        assert rates == pytest.approx(kl.mean(0)[latents].tolist(), rel=1e-4)
        z = posterior.mean[:1].repeat(5, 1)
        z[:, latents[1]] = torch.linspace(-2, 2, 5)
        torch.testing.assert_close(images[1], model.generative(z).mean, rtol=1e-4, atol=1e-5)
    found = traverse_files(Settings(blobs_run, pictures / "normal", tmp_path / "t.png"), n=5, nlatents=3, reach=2.0)
    torch.testing.assert_close(found, images.flatten(0, 1))
    assert below_words(tmp_path / "t.png", grid(found, 5)).equal(grid(found, 5))


def test_a_direction_leads_from_one_label_to_the_other(blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    model, both = load_model(blobs_run), [sorted((pictures / name).iterdir()) for name in ("normal", "strange")]
    vector = latent_direction(model, *both)
    torch.testing.assert_close(vector, encode_images(model, both[1]).mean(0) - encode_images(model, both[0]).mean(0))
    rows = [f"{path},{label}" for label, files in ((2, both[0]), (10, both[1])) for path in files]
    rows = [row.removeprefix(f"{pictures}/") for row in rows]
    (pictures / "labels.csv").write_text("\n".join(["path,label", *rows]))
    start = both[0][0]
    found = traverse_files(Settings(blobs_run, start, tmp_path / "t.png"), n=3, direction=pictures / "labels.csv")
    (pictures / "labels.csv").unlink()
    with torch.no_grad():
        z = encode_images(model, start) + torch.tensor([[-1.0], [0.0], [1.0]]) * vector
        torch.testing.assert_close(found, model.generative(z).mean, rtol=1e-4, atol=1e-5)
    for text, said in (("path,kind\na,1", "columns path and label"), ("path,label\na,1", "has 1 different labels")):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            traverse_files(Settings(blobs_run, start, tmp_path / "t.png"), direction=tmp_path / "bad.csv")


def test_pictures_of_others_stay(blobs_run: Path, pictures: Path, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "mine.png")
    with pytest.raises(ValueError, match="holds pictures that vae_lab did not write"):
        reconstruct_files(Settings(blobs_run, pictures, tmp_path / "mine.png"))


COMMANDS: dict[str, tuple[str, tuple[str, ...], int, str]] = {
    "reconstruct": ("reconstruct", (), 0, "28 reconstructions in reconstructions.png"),
    "a class": ("reconstruct", ("class=2",), 2, "unconditional; leave class out"),
    "a name of another file": ("reconstruct", ("out=a.jpg",), 2, "out=a.jpg is the name of a file; name a .png or a"),
    "one picture": ("interpolate", (), 2, "images names 28 pictures; give two to interpolate between"),
    "a path": ("interpolate", ("path=curved",), 2, "path must be one of spherical, linear, not curved"),
    "traverse": ("traverse", ("n=3", "nlatents=2"), 0, "2 rows of 3 images in traversals.png"),
    "no way": ("traverse", ("reach=0",), 2, "reach must be a finite number above 0, not 0"),
    "no file": ("interpolate", ("images=[a.png,b.png]",), 3, "a.png cannot be read"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_with_a_sentence(  # noqa: PLR0917
    name: str, blobs_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    command, settings, code, said = COMMANDS[name]
    main = importlib.import_module(f"vae_lab.{command}").main
    line = (f"run={blobs_run}", f"images={pictures}", "threads=1", *settings)
    found = invoke(main, command, *line, monkeypatch=monkeypatch)
    output = "".join(capfd.readouterr()) + caplog.text
    assert (found, said in output) == (code, True), output

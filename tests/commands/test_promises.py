"""A promise is made where its condition holds, and where it does not, the user is told."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detecting import judge, save_pictures, small, table
from hydra import compose, initialize_config_dir
from invoking import invoke
from PIL import Image
from torch import Tensor

from vae_lab.detection.detector import RunDetector, content_hashes
from vae_lab.detection.ground_truth import LabelledRows, report_truth
from vae_lab.detection.journal import Row
from vae_lab.detection.score_folder import warn_if_few
from vae_lab.detection.score_images import score_images
from vae_lab.detection.scores.anomaly import NegELBO
from vae_lab.evaluation.caveats import caveats
from vae_lab.generate import main
from vae_lab.models.vae import VAE
from vae_lab.runs.load import load_data, load_model
from vae_lab.sampling.images import class_folders, class_number, generate_images, read_classes
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

FOLDER = [
    "data=folder", "data.labels=subfolders", "data.image_size=16", "data.channels=1", "data.batch_size=4", "model=mlp",
    "model.encoder.width=16", "model.nlatent=2", "trainer.max_steps=4", "trainer.val_check_interval=4",
    "trainer.precision=32-true", "logger=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(blobs_run: Path) -> Path:
    return blobs_run


def save_part(run: Path, part: str, rows: range, folder: Path) -> None:
    """Write images of a part of the run's own as PNGs, 00.png and so on."""
    folder.mkdir(exist_ok=True)
    for i, pixels in enumerate(getattr(load_data(run).splits, part).pixels(rows)):
        Image.fromarray(pixels[0].numpy()).save(folder / f"{part}{i:02}.png")


def beware(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return [line for line in found if "p-values are invalid" in line]


@pytest.mark.parametrize("score", ["neg_elbo", pytest.param("all", marks=pytest.mark.slow)])
def test_images_that_were_trained_on_are_named(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, score: str
) -> None:
    for part, n in (("train", 6), ("val", 3), ("test", 4)):
        save_part(run, part, range(n), tmp_path / "images")
    for out in ("first.csv", "again.csv"):  # calibrated in the first call, and read back in the second
        judge(run, tmp_path / "images", tmp_path / out, {"score": small(score)})
        assert beware(caplog) == [
            "warning: 6 of these 13 images were used in training (first: train00.png): their p-values are invalid",
            "warning: 3 of these 13 images were used in validation and calibration (first: val00.png): their p-values"
            " are invalid",
        ]
        seen = {row["path"]: row["seen"] for row in table(tmp_path / out)}
        assert {path.rstrip("0123456789.png"): part for path, part in seen.items()} == {
            "trai": "train", "val": "val", "test": "",
        }  # fmt: skip


def test_new_images_are_not_called_seen(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = save_pictures(run, tmp_path / "pictures")
    judge(run, pictures / "normal", tmp_path / "t.csv")
    assert beware(caplog) == []
    assert {row["seen"] for row in table(tmp_path / "t.csv")} == {""}


def test_images_in_python_are_looked_up_too(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = load_data(run).splits
    both = torch.cat([parts.train.pixels(range(5)), parts.test.pixels(range(2))])
    for images in (both, both.float() / 255):
        judged = score_images(run, images, alpha=0.1)
        assert judged.details["seen"].tolist() == [1] * 5 + [0] * 2
        assert beware(caplog) == ["warning: 5 of these 7 images were used in training: their p-values are invalid"]


def test_an_image_of_two_parts_was_trained_on(run: Path) -> None:
    pixels = load_data(run).splits.train.pixels(range(3))
    own = {"train": content_hashes(pixels[:2]), "val": content_hashes(pixels[1:])}
    calibration = torch.arange(9).double()
    detector = RunDetector(load_model(run), NegELBO(1, 0), calibration, binary=False, key="", own=own)
    assert detector.examine(pixels)["seen"].tolist() == [1, 1, 2]


def test_a_hash_is_one_of_the_pixels() -> None:
    images = torch.randint(0, 256, (20, 3, 4, 4)).to(torch.uint8)
    assert len(content_hashes(images).unique()) == 20
    assert torch.equal(content_hashes(images.contiguous(memory_format=torch.channels_last)), content_hashes(images))
    assert content_hashes(images[:0]).shape == (0,)


def test_a_small_calibration_is_marked(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    judge(run, save_pictures(run, tmp_path / "pictures"), tmp_path / "t.csv")
    line = "warning: with 40 calibration images and alpha = 0.1, from 2.8 to 20.4 % of normal images are flagged"
    assert line in caplog.messages
    caplog.clear()
    warn_if_few(1000, 0.05)
    assert caplog.messages == []


@pytest.mark.parametrize(("lowest", "marked"), [(9.0, True), (3.0, False)])
def test_an_interval_that_is_a_point_is_marked(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, lowest: float, marked: bool
) -> None:
    normal = [Row(f"{i}.png", {"score": float(i), "seen": float(i == 2)}, "") for i in range(8)]
    anomalous = [Row(f"{i}.png", {"score": lowest + 5 * i, "seen": 0.0}, "") for i in range(3)]
    detector = RunDetector(load_model(run), NegELBO(1, 0), torch.arange(9).double(), binary=False, key="")
    report_truth(detector, LabelledRows(normal, anomalous), tmp_path / "t.csv", 50)
    line = "warning: score separates all images, so its interval is a point; with so few, the AUROC may be 0.29"
    assert (line in caplog.messages) == marked
    assert json.loads((tmp_path / "t-truth.json").read_text())["nseen"] == 1


@pytest.mark.parametrize(
    ("n", "trained_against", "sentences"),
    [
        (6, (), ("FID_vgg is left out", "needs 2.6 of them", "1st percentile of 6")),
        (49, (), ("FID", "1st")),
        (200, (), ("FID",)),
        (2048, (), ()),
        (2048, ("vgg",), ("trained against vgg, so its features flatter it",)),
    ],
)
def test_numbers_of_a_handful_are_marked(n: int, trained_against: tuple[str, ...], sentences: tuple[str, ...]) -> None:
    found = caveats(ncompared=n, naveraged=n, nreference=n, key="vgg", trained_against=trained_against)
    assert len(found) == len(sentences)
    assert all(part in sentence for part, sentence in zip(sentences, found, strict=True))


# classes


Classes = dict[str, int]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Classes], Path]:
    """A function that trains a conditional run, with one more class, on so many images in folders of these names."""
    made: dict[str, Path] = {}

    def make(counts: Classes) -> Path:
        root = tmp_path_factory.mktemp("classes")
        for number, (name, n) in enumerate(counts.items()):
            (root / "images" / name).mkdir(parents=True)
            for i in range(n):
                Image.new("L", (16, 16), 40 * number + i).save(root / "images" / name / f"{i}.png")
        overrides = [f"data.root={root / 'images'}", f"model.nclasses={len(counts) + 1}", f"folder={root / 'run'}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            train_run(compose("train", [*FOLDER, *overrides]))
        return root / "run"

    def once(counts: Classes) -> Path:
        if repr(counts) not in made:
            made[repr(counts)] = make(counts)
        return made[repr(counts)]

    return once


def drawn(model: Any, images: Tensor, seed: int) -> list[int]:
    """The class of each image that `generate_images` has drawn."""
    every = generate_images(model, len(images), seed, which="all").unflatten(0, (model.nclasses, len(images)))
    return (every - images).abs().amax((2, 3, 4)).argmin(0).tolist()


def test_classes_are_drawn_as_often_as_training_had_them(classes: Callable[[Classes], Path]) -> None:
    run = classes({"few": 8, "many": 72})
    counts, model = read_classes(run, "best")[1], load_model(run)
    assert sum(counts) == 64
    assert counts == load_data(run).splits.train.labels.bincount().tolist()
    found = torch.tensor(drawn(model, generate_images(model, 200, 0, counts=counts), 0)).bincount(minlength=3)
    share = counts[0] / sum(counts)
    assert found[2] == 0
    assert abs(found[0] / 200 - share) < 3 * (share * (1 - share) / 200) ** 0.5
    evenly = torch.tensor(drawn(model, generate_images(model, 200, 0), 0)).bincount(minlength=3)
    assert evenly.min() > 40
    torch.testing.assert_close(
        generate_images(model, 4, 0, counts=[0, 7]), generate_images(model, 4, 0, which=1), atol=1e-12, rtol=0
    )


def generated(run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    assert invoke(main, "generate", f"run={run}", "n=2", *arguments, monkeypatch=monkeypatch) == 0
    return "".join(capfd.readouterr())


def test_the_command_says_which_class_it_understood(
    classes: Callable[[Classes], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run = classes({"1": 14, "2": 14, "10": 14})
    names = ["1", "10", "2"]  # as they are sorted
    for argument, image, line in (
        ("class=1", "class=0", 'class=1 selects the class named "1", number 0\n'),
        ("class=10", "'class=\"10\"'", 'class=10 selects the class named "10", number 1\n'),
        ("class=0", "'class=\"1\"'", 'class=0 selects the class named "1"\n'),
    ):
        assert line in generated(run, monkeypatch, capfd, argument, "out=a.png")
        generated(run, monkeypatch, capfd, image.strip("'"), "out=b.png")
        assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    warned = "warning: no training image has class 3; generated images of this class are meaningless\n"
    assert warned in generated(run, monkeypatch, capfd, "class=3", "out=a.png")
    assert warned in generated(run, monkeypatch, capfd, "class=all", "out=folder")
    assert warned not in generated(run, monkeypatch, capfd, "out=a.png")
    assert sorted(path.name for path in Path("folder").iterdir() if path.is_dir()) == sorted([*names, "3"])
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({k: v for k, v in summary.items() if k != "class_counts"}))
    assert "classes are drawn equally often" in generated(run, monkeypatch, capfd, "out=a.png")
    (run / "summary.json").write_text(json.dumps(summary))


ODD = ["all", "cat, black", "true", "x"]


@pytest.mark.parametrize(
    ("which", "names", "expected", "line"),
    [
        ("all", ODD, 0, 'class=all selects the class named "all", number 0; class=* selects every class'),
        ("*", ODD, "all", ""),
        ("all", ["a", "b"], "all", ""),
        (True, ODD, 2, 'class=true selects the class named "true", number 2'),
        ("cat, black", ODD, 1, ""),
        (3, ODD, 3, 'class=3 selects the class named "x"'),
        (3, ["0", "1", "2", "3"], 3, ""),
        (3, [], 3, ""),
        ("3", ["3", "0", "1", "2"], 0, ""),
        (3, ["3", "0", "1", "2"], 0, 'class=3 selects the class named "3", number 0'),
        (None, ["None", "null"], None, ""),
    ],
    ids=str,
)
def test_a_name_comes_before_a_number(  # noqa: PLR0917
    which: object, names: list[str], expected: object, line: str, caplog: pytest.LogCaptureFixture, model: VAE
) -> None:
    caplog.set_level(logging.INFO, "vae_lab.generate")
    assert class_number(model, which, names) == expected
    assert caplog.messages == ([line] if line else [])


def test_a_class_that_is_none_names_those_there_are(model: VAE) -> None:
    with pytest.raises(ValueError, match=r'0 to 3, or all, or one of "all", "cat, black", "true", "x"\.'):
        class_number(model, "dog", ODD)


@pytest.fixture(scope="module")
def model() -> VAE:
    """Four classes."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        from hydra.utils import instantiate

        cfg = compose("train", ["data=synthetic", "model=mlp", "model.encoder.width=8", "model.nclasses=4"])
        return instantiate(cfg.model, _convert_="all")


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["1", "2", "10"], ["1", "2", "10"]),
        (["cat, black", "Ünï [1]=x", ".."], ["cat, black", "Ünï _1_=x", "_"]),
        (["a", "A", "b"], ["0", "1", "2"]),
        (["a/b", "a:b", "c"], ["0", "1", "2"]),
        (["a"], ["a", "1", "2"]),
        ([], ["0", "1", "2"]),
        (["1"], ["0", "1", "2"]),
    ],
    ids=str,
)
def test_folders_of_classes_have_their_names(names: list[str], folders: list[str]) -> None:
    assert class_folders(names, 3) == folders

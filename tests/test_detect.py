"""Images judged by a run: the same whichever way they come, with every file accounted for."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from vae_lab import screening
from vae_lab.calibration import Calibration, calibration_path, load_detector, score_config
from vae_lab.conf_folder import CONF
from vae_lab.detect import score_images
from vae_lab.detection import Panel, RunDetector, to_pixels
from vae_lab.errors import DataError, FilesFailed
from vae_lab.evaluation.conformal import p_values
from vae_lab.runs import load_data
from vae_lab.scorefile import BLOCK, Row, append, find, read_journal, score_files
from vae_lab.screening import screen
from vae_lab.training import train

SCORES = sorted(path.stem for path in (CONF / "score").glob("*.yaml"))
SINGLE = [name for name in SCORES if name not in {"all", "waic", "ensemble_mean", "ladder_llr"}]
HOW = Calibration(ncalibration=40, nfit=60)
QUICK: dict[str, Any] = {"checkpoint": "best", "root": None, "ncalibration": 40, "nfit": 60}
SETTINGS: dict[str, Any] = QUICK | {"truth": None, "alpha": 0.1, "nshown": 12, "nreplicates": 50}

OVERRIDES = [
    "data=synthetic", "data.nimages=400", "model=mlp", "model.encoder.width=32", "model.nlatent=4",
    "trainer.max_steps=100", "trainer.val_every=100", "trainer.precision=32-true", "logger=none", "optimizer.lr=3e-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 100 steps on 400 images of blobs."""
    folder = tmp_path_factory.mktemp("detected") / "run"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(compose("train", [*OVERRIDES, f"folder={folder}"]))
    return folder


@pytest.fixture(scope="module")
def pictures(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal images and noise as PNGs, and files that are no images."""
    root = tmp_path_factory.mktemp("pictures")
    for name in ("normal", "strange"):
        (root / name).mkdir()
    for i, pixels in enumerate(load_data(run).parts.test.pixels(slice(20))):
        Image.fromarray(pixels[0].numpy()).save(root / "normal" / f"{i:02}.png")
    generator = torch.Generator().manual_seed(0)
    for i in range(8):
        noise = torch.randint(0, 256, (16, 16), generator=generator).to(torch.uint8)
        Image.fromarray(noise.numpy()).save(root / "strange" / f"{i}.png")
    return root


def small(score: str) -> dict[str, Any]:
    """A score that takes no time."""
    config = score_config(score)
    if "_target_" not in config:
        return {name: small(name) for name in config}
    quick = {"nsteps": 3, "npairs": 2, "ncomponents": 2, "nquantiles": 60, "nsamples": 3}
    return config | {key: value for key, value in quick.items() if key in config}


def judge(run: Path, images: Path, out: Path, change: dict[str, Any] | None = None) -> list[Row]:
    """A folder judged by negative ELBO, or as `change` says."""
    settings = SETTINGS | {"run": str(run), "images": str(images), "out": str(out), "score": small("neg_elbo")}
    return screen(**settings | (change or {}))


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("score", SINGLE)
def test_files_and_tensors_get_the_same_scores(run: Path, pictures: Path, tmp_path: Path, score: str) -> None:
    rows = judge(run, pictures / "normal", tmp_path / "t.csv", {"score": small(score)})
    detector = load_detector(run, small(score), HOW)
    pixels = load_data(run).parts.test.pixels(slice(20))
    together, apart = detector.scores(pixels), torch.cat([detector.scores(one[None]) for one in pixels])
    torch.testing.assert_close(
        together, torch.tensor([row.values["score"] for row in rows]).double(), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(detector.scores(pixels.flip(0)), together.flip(0), rtol=1e-4, atol=1e-3)


def test_noise_is_flagged_and_normal_images_are_not(run: Path, pictures: Path) -> None:
    pixels = torch.stack([torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(5)])
    strange = score_images(run, pixels, "reconstruction_error", 0.05, **QUICK)
    assert strange.flagged.all()
    assert (strange.p_values == 1 / 41).all()
    normal = score_images(run, load_data(run).parts.test.pixels(slice(None)), "reconstruction_error", 0.05, **QUICK)
    assert normal.flagged.double().mean() < 0.2


def test_a_calibration_is_made_once_and_for_its_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    copy, config = tmp_path / "run", score_config("typicality")
    first = load_detector(copy, config, HOW)
    path = calibration_path(copy, config, HOW)
    written = path.stat().st_mtime_ns
    again = load_detector(copy, config, HOW)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(first.calibration, again.calibration)
    assert calibration_path(copy, config, HOW._replace(ncalibration=41)) != path
    assert calibration_path(copy, config | {"seed": 3}, HOW) != path
    (copy / "checkpoints" / "best.ckpt").write_bytes(b"another")
    assert calibration_path(copy, config, HOW) != path
    path.write_bytes(b"x")
    shutil.copy(run / "checkpoints" / "best.ckpt", copy / "checkpoints" / "best.ckpt")
    with pytest.raises(DataError, match="delete it to make a new one"):
        load_detector(copy, config, HOW)


def test_every_file_is_a_row(run: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "normal", tmp_path / "mixed")
    for name, content in {
        "empty.png": b"",
        "text.jpg": b"not an image",
        "cut.png": b"\x89PNG\r\n\x1a\n" + b"x" * 50,
    }.items():
        (tmp_path / "mixed" / name).write_bytes(content)
    with pytest.raises(FilesFailed, match="3 of 23 files could not be scored"):
        screen(
            run=str(run),
            images=str(tmp_path / "mixed"),
            score=small("neg_elbo"),
            out=str(tmp_path / "t.csv"),
            **SETTINGS,
        )
    rows = table(tmp_path / "t.csv")
    assert [row["path"] for row in rows] == sorted(path.name for path in (tmp_path / "mixed").iterdir())
    bad = {row["path"]: row["reason"] for row in rows if row["reason"]}
    assert bad.keys() == {"empty.png", "text.jpg", "cut.png"}
    assert bad["empty.png"] == "empty file"
    assert all(float(row["score"]) and 0 < float(row["p_value"]) <= 1 for row in rows if not row["reason"])
    with Image.open(tmp_path / "t-strangest.png") as sheet:
        assert sheet.convert("L").entropy() > 1
    assert not list(tmp_path.glob(".*journal"))


def test_the_truth_gives_numbers_and_a_plot(run: Path, pictures: Path, tmp_path: Path) -> None:
    change = {"score": small("reconstruction_error"), "truth": str(pictures / "strange")}
    judge(run, pictures / "normal", tmp_path / "t.csv", change)
    found = json.loads((tmp_path / "t-truth.json").read_text())
    area = found["score"]["auroc"]
    assert 0.9 < area["low"] <= area["value"] <= area["high"]
    assert (found["nnormal"], found["nanomalous"]) == (20, 8)
    assert [row["flagged"] for row in table(tmp_path / "t-truth.csv")] == ["1"] * 8
    for name in ("t-roc.png", "t-truth-heat.png", "t-truth-strangest.png"):
        assert (tmp_path / name).stat().st_size > 2000


def test_an_interrupted_job_goes_on_where_it_stopped(run: Path, pictures: Path, tmp_path: Path) -> None:
    detector = load_detector(run, score_config("neg_elbo"), HOW)
    place, rules = find(pictures / "normal"), screening.file_rules({"channels": 1, "image_size": 16})
    journal = tmp_path / "journal"
    whole = score_files(detector, place, rules, journal, "key")
    assert len(whole) == 20 < BLOCK
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:11]) + "\n" + lines[11][:7])  # ten rows, and one that a kill cut short
    seen: list[int] = []
    describe = detector.describe
    detector.describe = lambda pixels: seen.append(len(pixels)) or describe(pixels)  # type: ignore[method-assign, func-returns-value]
    for key, nscored in (("key", 10), ("another key", 20)):
        again = score_files(detector, place, rules, journal, key)
        assert [row.path for row in again] == [row.path for row in whole]
        assert [row.values["score"] for row in again] == pytest.approx([row.values["score"] for row in whole], rel=1e-5)
        assert seen.pop() == nscored
    append(journal, [Row("later.png", {"score": 1.0}, "")])
    assert list(read_journal(journal, "key")) == []


@pytest.fixture(scope="module")
def second(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with another seed."""
    folder = tmp_path_factory.mktemp("detected") / "second"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(compose("train", [*OVERRIDES, "seed=1", f"folder={folder}"]))
    return folder


def test_several_runs_make_one_score(run: Path, second: Path) -> None:
    pixels = load_data(run).parts.test.pixels(slice(20))
    each = torch.stack([load_detector(one, score_config("neg_elbo"), HOW).scores(pixels) for one in (run, second)])
    assert (each[0] - each[1]).abs().max() > 0.01
    mean, variance = load_detector([run, second], score_config("ensemble_mean"), HOW), each.var(0)
    torch.testing.assert_close(mean.scores(pixels), each.mean(0))
    waic = score_images([run, second], pixels, "waic", 0.1, **QUICK)
    torch.testing.assert_close(waic.scores, each.mean(0) + variance)
    learned = score_config("ensemble_mean") | {"member": small("latent_path")}  # each run learns for itself
    members = [load_detector(one, small("latent_path"), HOW) for one in (run, second)]
    both = load_detector([run, second], learned, HOW)
    torch.testing.assert_close(both.calibration, (members[0].calibration + members[1].calibration) / 2)
    torch.testing.assert_close(both.scores(pixels), (members[0].scores(pixels) + members[1].scores(pixels)) / 2)


def test_runs_on_other_images_make_no_ensemble(run: Path, tmp_path: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(compose("train", [*OVERRIDES, "trainer.max_steps=1", "data.nimages=390", f"folder={tmp_path / 'other'}"]))
    with pytest.raises(ValueError, match="different images"):
        load_detector([run, tmp_path / "other"], score_config("waic"), HOW)


def test_a_conditional_run_is_refused(tmp_path: Path, config: Any) -> None:
    train(config("data=digits", "model=mlp", "model.encoder.width=8", "model.nclasses=10", folder="classes"))
    with pytest.raises(ValueError, match="is conditional on classes"):
        load_detector(tmp_path / "classes", score_config("neg_elbo"), HOW)


def test_all_scores_make_one_table(run: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    judge(run, pictures / "normal", tmp_path / "t.csv", {"score": small("all"), "truth": str(pictures / "strange")})
    row = table(tmp_path / "t.csv")[0]
    for name in SINGLE:
        assert 0 < float(row[f"{name}_p_value"]) <= 1, name
        assert float(row[name])
    assert float(row["iwae_nll_effective"]) >= 1
    assert "without ladder_llr: score=ladder_llr compares groups" in caplog.text
    assert "without waic: WAIC compares several runs" in caplog.text
    found = json.loads((tmp_path / "t-truth.json").read_text())
    assert found.keys() == {"nnormal", "nanomalous", "score", *SINGLE}
    expected = -sum(torch.tensor(float(row[f"{name}_p_value"])).log() for name in SINGLE)
    assert float(row["score"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_panel_keeps_its_level(run: Path) -> None:
    """With few calibration images and scores that agree in part, false alarms stay at alpha on average over sets."""
    generator, alarms = torch.Generator().manual_seed(0), []
    one = load_detector(run, score_config("rate"), HOW)
    assert isinstance(one, RunDetector)
    for _ in range(400):
        common = torch.randn(39 + 50, generator=generator).double()
        scores = [common + torch.randn(89, generator=generator).double() for _ in range(3)]
        panel = Panel(
            {str(i): RunDetector(one.model, one.score, s[:39], binary=False, key="") for i, s in enumerate(scores)}
        )
        sums = -torch.stack([p_values(s[:39], s[39:]) for s in scores]).log().sum(0)
        alarms.append(panel.judge({"score": sums}, 0.1).flagged.double().mean())
    rate = torch.stack(alarms)
    assert 0.06 < rate.mean() <= 0.1 + 2 * rate.std() / 20


def test_the_truth_may_be_a_table(run: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "normal", tmp_path / "mixed")
    for path in (pictures / "strange").iterdir():
        shutil.copy(path, tmp_path / "mixed" / f"s{path.name}")
    lines = [f"{path.name},{int(path.name[0] == 's')}" for path in sorted((tmp_path / "mixed").iterdir())]
    change = {"score": small("reconstruction_error"), "truth": str(tmp_path / "truth.csv")}
    (tmp_path / "truth.csv").write_text("path,anomalous\n" + "\n".join(lines[1:]))
    judge(run, tmp_path / "mixed", tmp_path / "t.csv", change)
    found = json.loads((tmp_path / "t-truth.json").read_text())
    assert (found["nnormal"], found["nanomalous"]) == (19, 8)
    assert found["score"]["auroc"]["value"] > 0.9
    for content, message in {
        "path,anomalous\n00.png,0": "at least one image normal",
        "path,anomalous\nno.png,0": "'no.png', which is not among the images",
        "path,anomalous\n00.png,2": "no CSV with the columns",
        "name\n00.png": "no CSV with the columns",
    }.items():
        (tmp_path / "truth.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            judge(run, tmp_path / "mixed", tmp_path / "t.csv", change)


WRONG = [
    ({"alpha": 0.01}, ValueError, "alpha=0.01 would flag nothing"),
    ({"alpha": 2.0}, ValueError, "alpha"),
    ({"images": "/nowhere"}, DataError, "/nowhere cannot be read"),
    ({"nshown": 0}, ValueError, "nshown"),
    ({"score": score_config("ladder_llr")}, ValueError, "use a ladder"),
    ({"score": {"_target_": "os.system"}}, ValueError, "does not ship"),
    ({"score": score_config("waic")}, ValueError, "compares several runs"),
    ({"run": ["a", "b"]}, ValueError, "NegELBO is for one run"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG, ids=str)
def test_wrong_settings_are_one_sentence(  # noqa: PLR0917
    run: Path, pictures: Path, tmp_path: Path, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        judge(run, pictures / "normal", tmp_path / "t.csv", change)


def test_an_unknown_score_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"there are all, .*waic\."):
        score_config("magic")


def test_pixels_are_read_in_either_way() -> None:
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(to_pixels(to_pixels(images)), to_pixels(images))
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        to_pixels(images * 255)


def test_binary_runs_take_grey_files(tmp_path: Path, config: Any, pictures: Path) -> None:
    train(
        config("data.binarize=dynamic", "likelihood=bernoulli", "model=mlp", "model.encoder.width=8", folder="binary")
    )
    detector = load_detector(tmp_path / "binary", score_config("neg_elbo"), HOW)
    pixels = load_data(tmp_path / "binary").grey_parts.test.pixels(slice(None))
    assert detector.binary
    torch.testing.assert_close(detector.scores(pixels.flip(0)), detector.scores(pixels).flip(0))

"""Images judged by a run: the same whichever way they come, with every file accounted for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from detecting import HOW, QUICK, SETTINGS, judge, save_pictures, small, table, trained_run
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor

from vae_lab.data.binarize import prepared
from vae_lab.data.files.cache import decode_files
from vae_lab.data.files.places import find
from vae_lab.data.pictures import file_rules
from vae_lab.detection.calibration import calibration_path, load_detector, score_config
from vae_lab.detection.conformal import discoveries, p_values
from vae_lab.detection.detector import CombinedDetector, RunDetector
from vae_lab.detection.score_folder import score_folder
from vae_lab.detection.score_images import score_images
from vae_lab.detection.score_table import score_block
from vae_lab.detection.scores.anomaly import Score
from vae_lab.errors import DataError, FilesFailed
from vae_lab.features import weights
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.load import load_data, load_model
from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

SCORES = sorted(path.stem for path in (CONF / "score").glob("*.yaml"))
SINGLE = [name for name in SCORES if name not in {"all", "auto", "waic", "ensemble_mean", "ladder_llr"}]


@pytest.fixture(scope="module")
def run(blobs_run: Path) -> Path:
    """A run on blobs."""
    return blobs_run


@pytest.fixture(scope="module")
def pictures(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal images and noise."""
    return save_pictures(run, tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("score", SINGLE)
def test_files_and_tensors_get_the_same_scores(run: Path, pictures: Path, tmp_path: Path, score: str) -> None:
    rows = judge(run, pictures / "normal", tmp_path / "t.csv", {"score": small(score)})
    detector = load_detector(run, small(score), HOW)
    pixels = load_data(run).splits.test.pixels(slice(20))
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
    normal = score_images(run, load_data(run).splits.test.pixels(slice(None)), "reconstruction_error", 0.05, **QUICK)
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


def test_a_calibration_lies_beside_its_checkpoint(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    alone = Path(shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "elsewhere" / "my.ckpt"))
    load_detector(alone, score_config("neg_elbo"), HOW)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert len(list((tmp_path / "elsewhere" / "calibration").iterdir())) == 1
    inside = calibration_path(run / "checkpoints" / "best.ckpt", score_config("neg_elbo"), HOW)
    assert inside == calibration_path(run, score_config("neg_elbo"), HOW)


def test_weights_that_are_no_numbers_are_named(run: Path, tmp_path: Path) -> None:
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    next(iter(stored["state_dict"].values())).fill_(torch.nan)
    torch.save(stored, tmp_path / "nan.ckpt")
    for score in ("neg_elbo", "latent_path"):
        with pytest.raises(DataError, match=r"some weights of .*nan\.ckpt are not finite"):
            load_detector(tmp_path / "nan.ckpt", small(score), HOW)
    assert not (tmp_path / "calibration").exists()


def test_every_file_is_a_row(run: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "normal", tmp_path / "mixed")
    for name, content in {
        "empty.png": b"",
        "text.jpg": b"not an image",
        "cut.png": b"\x89PNG\r\n\x1a\n" + b"x" * 50,
    }.items():
        (tmp_path / "mixed" / name).write_bytes(content)
    with pytest.raises(FilesFailed, match="3 of 23 files could not be scored"):
        score_folder(
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


@pytest.fixture(scope="module")
def second(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with another seed."""
    return trained_run(tmp_path_factory.mktemp("detected") / "second", "seed=1")


def test_several_runs_make_one_score(run: Path, second: Path) -> None:
    pixels = load_data(run).splits.test.pixels(slice(20))
    each = torch.stack([load_detector(one, score_config("neg_elbo"), HOW).scores(pixels) for one in (run, second)])
    assert (each[0] - each[1]).abs().max() > 0.01
    mean, variance = load_detector([run, second], score_config("ensemble_mean"), HOW), each.var(0)
    torch.testing.assert_close(mean.scores(pixels), each.mean(0))
    waic = score_images((run, second), pixels, "waic", 0.1, **QUICK)
    torch.testing.assert_close(waic.scores, each.mean(0) + variance)
    learned = score_config("ensemble_mean") | {"member": small("latent_path")}  # each run learns for itself
    members = [load_detector(one, small("latent_path"), HOW) for one in (run, second)]
    both = load_detector([run, second], learned, HOW)
    torch.testing.assert_close(both.calibration, (members[0].calibration + members[1].calibration) / 2)
    torch.testing.assert_close(both.scores(pixels), (members[0].scores(pixels) + members[1].scores(pixels)) / 2)


def test_a_run_is_no_ensemble_with_itself(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    for other in (run, run / "checkpoints" / "best.ckpt", tmp_path / "copy"):
        with pytest.raises(ValueError, match="names the same checkpoint twice"):
            load_detector([run, other], score_config("waic"), HOW)


def test_runs_on_other_images_make_no_ensemble(run: Path, tmp_path: Path) -> None:
    trained_run(tmp_path / "other", "trainer.max_steps=1", "data.nimages=390")
    with pytest.raises(ValueError, match="different images"):
        load_detector([run, tmp_path / "other"], score_config("waic"), HOW)


def test_a_conditional_run_is_refused(tmp_path: Path, config: Any) -> None:
    train_run(config("data=digits", "model=mlp", "model.encoder.width=8", "model.nclasses=10", folder="classes"))
    with pytest.raises(ValueError, match="is conditional on classes"):
        load_detector(tmp_path / "classes", score_config("neg_elbo"), HOW)
    with pytest.raises(ValueError, match=r"none of these scores fits .*, rate.*: .* is conditional on classes"):
        load_detector(tmp_path / "classes", score_config("all"), HOW)


def test_all_scores_make_one_table(run: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    judge(run, pictures / "normal", tmp_path / "t.csv", {"score": small("all"), "truth": str(pictures / "strange")})
    row = table(tmp_path / "t.csv")[0]
    for name in SINGLE:
        assert 0 < float(row[f"{name}_p_value"]) <= 1, name
        assert float(row[name])
    assert float(row["iwae_nll_effective"]) >= 1
    assert "leaving out score ladder_llr: score=ladder_llr compares groups" in caplog.text
    assert "leaving out score waic: WAIC compares several runs" in caplog.text
    found = json.loads((tmp_path / "t-truth.json").read_text())
    assert found.keys() == {"nnormal", "nanomalous", "nseen", "score", *SINGLE}
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
        panel = CombinedDetector(
            {str(i): RunDetector(one.model, one.score, s[:39], binary=False, key="") for i, s in enumerate(scores)}
        )
        sums = -torch.stack([p_values(s[:39], s[39:]) for s in scores]).log().sum(0)
        alarms.append(panel.judge({"score": sums}, 0.1).flagged.double().mean())
    rate = torch.stack(alarms)
    assert 0.06 < rate.mean() <= 0.1 + 2 * rate.std() / 20


WRONG = [
    ({"alpha": 0.01}, ValueError, "alpha=0.01 would flag nothing"),
    ({"alpha": 2.0}, ValueError, "alpha"),
    ({"images": "/nowhere"}, DataError, "/nowhere cannot be read"),
    ({"nshown": 0}, ValueError, "nshown"),
    ({"score": score_config("ladder_llr")}, ValueError, "use a ladder"),
    ({"score": {"_target_": "torch.nn.GELU"}}, ValueError, "not a Score or an Ensemble"),
    ({"score": score_config("waic")}, ValueError, "compares several runs"),
    ({"run": ["a", "b"]}, ValueError, "NegELBO takes one run"),
    ({"alpha": "abc"}, ValueError, r"alpha must lie in \(0, 1\), not abc"),
    ({"alpha": None}, ValueError, r"alpha must lie in \(0, 1\), not None"),
    ({"run": []}, ValueError, r"run=\[\] names no path"),
    ({"images": None}, ValueError, "images=None names no path"),
    ({"truth": ""}, ValueError, "truth= names no path"),
    ({"nfit": 0}, ValueError, "nfit"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG, ids=str)
def test_wrong_settings_are_one_sentence(  # noqa: PLR0917
    run: Path, pictures: Path, tmp_path: Path, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        judge(run, pictures / "normal", tmp_path / "t.csv", change)


def test_an_unknown_score_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of all, .*waic, not magic"):
        score_config("magic")


@pytest.mark.parametrize("score", [*SINGLE, "all"])
def test_no_images_get_no_scores(run: Path, score: str) -> None:
    config = small(score) if score != "all" else {name: small(name) for name in SINGLE}
    detector = load_detector(run, config, HOW)
    none, one = (detector.describe(torch.zeros(n, 1, 16, 16, dtype=torch.uint8)) for n in (0, 1))
    assert none.keys() == one.keys()
    judged = detector.judge(none, 0.1)
    assert len(judged.scores) == len(judged.p_values) == len(judged.flagged) == 0


class RootOfBrightness(Score):
    """A score that black images have none of."""

    def forward(self, model: LatentModel, images: Tensor) -> Tensor:
        return (images.mean((1, 2, 3)) - 0.1).sqrt()


def test_one_image_without_a_number_costs_no_other(run: Path, tmp_path: Path) -> None:
    calibration = torch.rand(40, generator=torch.Generator().manual_seed(0)).double()
    one = RunDetector(load_model(run), RootOfBrightness(), calibration, binary=False, key="")
    pixels = torch.tensor([0, 128], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 16, 16)
    assert CombinedDetector({"a": one}).describe(pixels)["score"].isnan().tolist() == [True, False]
    for i in range(2):
        Image.new("L", (16, 16), 128 * i).save(tmp_path / f"{i}.png")
    rules = file_rules(load_model(run))
    files = find(tmp_path).files
    for detector in (one, CombinedDetector({"a": one})):
        rows = score_block(detector, files, decode_files(tmp_path, files, rules, lambda _: None))
        assert rows["0.png"].reason == "the model gives no finite score"
        assert rows["1.png"].values["score"] > 0


def test_binary_runs_take_grey_files(tmp_path: Path, config: Any, pictures: Path) -> None:
    train_run(
        config("data.binarize=dynamic", "likelihood=bernoulli", "model=mlp", "model.encoder.width=8", folder="binary")
    )
    detector = load_detector(tmp_path / "binary", score_config("neg_elbo"), HOW)
    pixels = load_data(tmp_path / "binary").raw_splits.test.pixels(slice(None))
    assert detector.binary
    torch.testing.assert_close(detector.scores(pixels.flip(0)), detector.scores(pixels).flip(0))


def test_each_image_is_binarized_by_its_own_draw_wherever_it_stands() -> None:
    grey = torch.full((3, 1, 16, 16), 128, dtype=torch.uint8)
    grey[1, 0, 0, 0], grey[2] = 129, grey[0]
    found = prepared(grey, binary=True)
    assert found.unique().tolist() == [0.0, 1.0]
    assert found[0].equal(found[2])
    assert not found[0, 0, 1:].equal(found[1, 0, 1:])
    assert prepared(grey.flip(0), binary=True).flip(0).equal(found)


def test_a_batch_is_flagged_by_the_share_of_false_discoveries(
    run: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    change = {"fdr": 0.3, "alpha": 0.001, "score": small("reconstruction_error")}  # alpha is not used
    judge(run, pictures, tmp_path / "t.csv", change)
    rows = table(tmp_path / "t.csv")
    p = torch.tensor([float(row["p_value"]) for row in rows], dtype=torch.float64)
    flagged = torch.tensor([row["flagged"] == "1" for row in rows])
    assert torch.equal(flagged, discoveries(p, 0.3))
    assert flagged.sum() >= sum(row["path"].startswith("strange") for row in rows) == 8
    assert f"{int(flagged.sum())} of 28 images flagged at fdr = 0.3" in caplog.text
    line = "40 calibration images, fdr = 0.3 flags none of 28 images, or at least 3; use at least 93"
    assert line in caplog.text
    pixels = load_data(run).splits.test.pixels(slice(20))
    found = score_images(run, pixels, "reconstruction_error", fdr=0.3, **QUICK)
    assert torch.equal(found.flagged, discoveries(found.p_values, 0.3))
    with pytest.raises(ValueError, match=r"fdr=0\.02 would flag nothing: 40 calibration"):
        judge(run, pictures, tmp_path / "t.csv", change | {"fdr": 0.02})
    with pytest.raises(ValueError, match=r"fdr must lie in \(0, 1\), not 2"):
        judge(run, pictures, tmp_path / "t.csv", change | {"fdr": 2})


@pytest.mark.parametrize(("installed", "name"), [(True, "features"), (False, "neg_elbo")])
def test_the_default_score_is_the_best_that_is_installed(
    run: Path, installed: bool, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    if not installed:
        monkeypatch.setattr(weights, "find_spec", lambda _: None)
    chosen = load_detector(run, small("auto"), HOW)
    assert isinstance(chosen, RunDetector)
    assert isinstance(chosen.score, type(instantiate(small(name))))
    assert torch.equal(chosen.calibration, load_detector(run, small(name), HOW).calibration)
    assert ("pip install" in caplog.text) is not installed
    assert f"score=auto is {type(chosen.score).__name__}" in caplog.text

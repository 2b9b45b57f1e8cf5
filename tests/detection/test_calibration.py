"""Which images a detector is calibrated on, what it learns from, and what its p-values are then worth."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detecting import HOW, small, trained_run
from linear_gaussian import linear_gaussian_vae, marginal
from PIL import Image
from scipy.stats import binom, kstest

from vae_lab.data.images import ImageSet, scaled
from vae_lab.detection.calibration import Calibration, calibration_path, draw_images, load_detector, score_config
from vae_lab.detection.detector import CombinedDetector, RunDetector
from vae_lab.detection.scores.anomaly import IwaeNLL, NegELBO, Score, Typicality
from vae_lab.runs.load import load_data, load_model
from vae_lab.training.run import train_run

FOLDERS = ("a_day", "b_night")


@pytest.fixture
def days(tmp_path: Path, config: Any) -> Path:
    """A run on a folder whose first half is bright and whose second half is dark."""
    generator = torch.Generator().manual_seed(0)
    for folder, brightness in zip(FOLDERS, (200, 20), strict=True):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for i in range(100):
            pixels = (brightness + torch.randint(-20, 20, (16, 16), generator=generator)).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / folder / f"{i:03}.png")
    overrides = ["data=folder", f"data.root={tmp_path / 'images'}", "data.image_size=16", "data.channels=1"]
    more = ["data.batch_size=20", "data.val_fraction=0.5", "model=mlp", "model.encoder.width=8"]
    train_run(config(*overrides, *more, folder="days"))
    return tmp_path / "days"


def test_a_calibration_is_a_sample_of_the_whole_part(days: Path) -> None:
    val = load_data(days).raw_splits.val
    bright = val.pixels(slice(None)).float().mean((1, 2, 3)) > 100
    for n in (40, len(val), 10 * len(val)):
        torch.manual_seed(n)  # whoever calls has random numbers of their own
        chosen, again = draw_images(val, n, "val"), draw_images(val, n, "val")
        assert torch.equal(chosen, again)
        assert len(chosen) == len({image.numpy().tobytes() for image in chosen}) == min(n, len(val))
        share = (chosen.float().mean((1, 2, 3)) > 100).double().mean()
        assert abs(share - bright.double().mean()) < 0.2
    detector = load_detector(days, score_config("neg_elbo"), Calibration(ncalibration=40))
    flagged = detector.judge(detector.describe(val.pixels(slice(None))), 0.1).flagged
    assert flagged[~bright].double().mean() < 0.4
    assert flagged[bright].double().mean() < 0.4


def test_a_draw_leaves_the_callers_random_numbers_alone() -> None:
    images = ImageSet(torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1), torch.zeros(9, dtype=torch.int64))
    state = torch.get_rng_state()
    assert not torch.equal(draw_images(images, 4, "val"), draw_images(images, 4, "train"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_calibration_of_the_first_images_is_not_used_again(days: Path) -> None:
    """Those of the rule before took the first images of each part."""
    config, how = score_config("neg_elbo"), Calibration(ncalibration=40)
    weights = hashlib.blake2b((days / "checkpoints" / "best.ckpt").read_bytes(), digest_size=8).hexdigest()
    rule = json.dumps([config, weights, how.ncalibration, how.nfit], sort_keys=True).encode()
    old = days / "calibration" / f"negelbo-{hashlib.blake2b(rule, digest_size=8).hexdigest()}.pt"
    assert calibration_path(days, config, how) != old


def test_the_validation_part_calibrates_and_the_training_part_is_learned_from(days: Path) -> None:
    how = Calibration(ncalibration=30, nfit=10_000)
    detector = load_detector(days, score_config("typicality"), how)
    assert isinstance(detector, RunDetector)
    assert isinstance(detector.score, Typicality)
    model, parts, score = load_model(days), load_data(days).raw_splits, NegELBO(2, 0)
    train_run, val = (score(model, scaled(part.pixels(slice(None)))).double() for part in (parts.train, parts.val))
    torch.testing.assert_close(detector.score.centre.double(), train_run.mean(), rtol=1e-5, atol=1e-3)
    distances = (val - train_run.mean()).abs()
    assert (detector.calibration[:, None] - distances).abs().amin(1).max() < 0.01
    assert len(detector.calibration) == 30


@pytest.mark.parametrize("score", [NegELBO(4, 0), IwaeNLL(50, 1000, 0)], ids=["neg_elbo", "iwae_nll"])
def test_p_values_of_a_linear_gaussian_model_are_uniform(score: Score) -> None:
    """On images of the model itself, whose scores have a closed form.

    False alarms lie within the 99 % binomial band; so many images calibrate that their own spread is small beside it.
    """
    model = linear_gaussian_vae().eval()
    torch.manual_seed(0)
    calibration, fresh = marginal(model).sample((22_000,)).view(-1, 1, 2, 2).split([20_000, 2000])
    torch.testing.assert_close(score(model, fresh), -marginal(model).log_prob(fresh.flatten(1)), rtol=0, atol=0.05)
    detector = RunDetector(model, score, score(model, calibration).double(), binary=False, key="")
    judged = detector.judge({"score": score(model, fresh).double()}, 0.05)
    assert kstest(judged.p_values.numpy(), "uniform").pvalue > 0.01
    low, high = binom.interval(0.99, len(fresh), 0.05)
    assert low <= int(judged.flagged.sum()) <= high
    anomalous = detector.judge({"score": score(model, 3 * fresh).double()}, 0.05)
    assert anomalous.flagged.double().mean() > 0.5


def test_a_fixed_variance_has_no_complexity(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    fixed = trained_run(tmp_path / "fixed", "trainer.max_steps=1", "likelihood=mse")
    with pytest.raises(ValueError, match=r"learns its scale, such as sigma_vae"):
        load_detector(fixed, score_config("complexity"), HOW)
    panel = load_detector(fixed, {name: small(name) for name in ("complexity", "rate")}, HOW)
    assert isinstance(panel, CombinedDetector)
    assert panel.members.keys() == {"rate"}
    assert "leaving out score complexity: score=complexity compares nats" in caplog.text

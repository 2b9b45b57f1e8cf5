"""A job that was interrupted goes on with what is still true, and with nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest
from detecting import HOW, judge, save_pictures, small, table, trained_run
from PIL import Image

from vae_lab.data.files.cache import Rules
from vae_lab.data.files.places import find
from vae_lab.data.pictures import file_rules
from vae_lab.detection.calibration import load_detector, score_config
from vae_lab.detection.journal import Row, append, read_journal, resumed
from vae_lab.detection.score_folder import journal_key, journal_path
from vae_lab.detection.score_table import BLOCK, score_files
from vae_lab.errors import DataError

RULES = Rules(1, 16, 10**6, 255)


@pytest.fixture(scope="module")
def run(blobs_run: Path) -> Path:
    """A run on blobs."""
    return blobs_run


@pytest.fixture(scope="module")
def pictures(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal images and noise."""
    return save_pictures(run, tmp_path_factory.mktemp("pictures"))


def test_an_interrupted_job_goes_on_where_it_stopped(run: Path, pictures: Path, tmp_path: Path) -> None:
    detector = load_detector(run, score_config("neg_elbo"), HOW)
    place, rules = find(pictures / "normal"), file_rules(detector.model)
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
    append(journal, [(place.files[0], Row("later.png", {"score": 1.0}, ""))])
    assert list(read_journal(journal, "key")) == []


@pytest.fixture
def images(pictures: Path, tmp_path: Path) -> Path:
    """Normal images that may be changed."""
    return Path(shutil.copytree(pictures / "normal", tmp_path / "images"))


def test_files_that_changed_are_scored_again_and_those_gone_are_not(run: Path, images: Path, tmp_path: Path) -> None:
    detector, journal = load_detector(run, score_config("neg_elbo"), HOW), tmp_path / "journal"
    before = {row.path: row for row in score_files(detector, find(images), RULES, journal, "key")}
    Image.new("L", (16, 16), 255).save(images / "00.png")
    shutil.copy(images / "02.png", images / "01.png")
    os.utime(images / "01.png", ns=(0, 0))
    (images / "03.png").unlink()
    found = score_files(detector, find(images), RULES, journal, "key")
    fresh = score_files(detector, find(images), RULES, tmp_path / "none", "key")
    assert [row.path for row in found] == [row.path for row in fresh]
    assert "03.png" not in {row.path for row in found}
    for row, expected in zip(found, fresh, strict=True):
        assert row.values["score"] == pytest.approx(expected.values["score"], rel=1e-5)
    for name in ("00.png", "01.png"):
        assert {row.path: row for row in found}[name].values["score"] != before[name].values["score"]


def test_a_torn_line_does_not_stay(images: Path, tmp_path: Path) -> None:
    files, journal = find(images).files, tmp_path / "journal"
    resumed(journal, "key", files)
    for i in range(6):  # each time a row, and a kill in the middle of the next one
        assert len(resumed(journal, "key", files)) == i
        append(journal, [(files[i], Row(files[i].path, {"score": float(i)}, ""))])
        with journal.open("a") as file:
            file.write('["torn')
    assert [row.path for _, row in read_journal(journal, "key")] == [file.path for file in files[:6]]
    assert [json.loads(line)[0] for line in journal.read_text().splitlines()[1:-1]] == [file.path for file in files[:6]]


def test_a_journal_is_for_one_run_score_place_and_way_to_decode(run: Path, pictures: Path, tmp_path: Path) -> None:
    other = trained_run(tmp_path / "other", "trainer.max_steps=1")
    place = find(pictures / "normal")
    first = load_detector(run, small("neg_elbo"), HOW)
    more = [load_detector(run, small("rate"), HOW), load_detector(other, small("neg_elbo"), HOW)]
    more.append(load_detector(run, small("neg_elbo") | {"nsamples": 4}, HOW))
    keys = [journal_key(detector, place, RULES) for detector in (first, *more)]
    keys.append(journal_key(first, find(pictures / "strange"), RULES))
    keys += [journal_key(first, place, Rules(*rule)) for rule in ((1, 16, 10**6, 0), (1, 16, 10**5, 255))]
    assert len(set(keys)) == len(keys)


def test_a_journal_of_another_score_is_not_used(run: Path, pictures: Path, tmp_path: Path) -> None:
    place, out = find(pictures / "normal"), tmp_path / "t.csv"
    detector = load_detector(run, small("neg_elbo"), HOW)
    rules = file_rules(detector.model)
    score_files(detector, place, rules, journal_path(out), journal_key(detector, place, rules))
    judge(run, pictures / "normal", out, {"score": small("rate")})
    judge(run, pictures / "normal", tmp_path / "fresh.csv", {"score": small("rate")})
    assert table(out) == table(tmp_path / "fresh.csv")


def test_a_job_stopped_at_the_truth_has_not_lost_the_images(run: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "no.png").write_bytes(b"no image")
    change = {"truth": str(tmp_path / "strange")}
    with pytest.raises(DataError, match="none of the anomalous ones could be scored"):
        judge(run, pictures / "normal", tmp_path / "t.csv", change)
    assert len(journal_path(tmp_path / "t.csv").read_text().splitlines()) == 21
    shutil.copy(pictures / "strange" / "0.png", tmp_path / "strange" / "no.png")
    judge(run, pictures / "normal", tmp_path / "t.csv", change)
    assert not list(tmp_path.glob(".*journal"))

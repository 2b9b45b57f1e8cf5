"""What is passed over in a folder: counted, named, and never somebody's picture."""

import json
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from vae_lab.data.files import listing
from vae_lab.data.files.listing import list_files, report_passed
from vae_lab.data.files.own_output import GRIDS, PROFILES, RUN_PARTS, RUNS, SAMPLES, SWEEPS, TABLES, WANDB
from vae_lab.data.files.places import find, find_all
from vae_lab.data.folder import Folder
from vae_lab.errors import DataError
from vae_lab.runs.load import load_data
from vae_lab.training.run import train_run

SUMMARY = {"status": "completed", "seed": 0, "data": {}, "versions": {}}
MANIFEST = json.dumps({"made_of": {"run": "r", "weights": "0"}, "images": [{"file": "00000.png"}]})
SWEEP = "task:\n  _target_: vae_lab.training.tasks.vae.VAETask\n"
TABLE = "path,score,p_value,flagged,reason\na.png,1,0.5,0,\n"


@pytest.fixture(autouse=True)
def all_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def put(path: Path, content: str | bytes | None = None) -> None:
    """Write a small picture, or what is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        pixels = np.random.default_rng(len(str(path))).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "PNG")
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def taken(root: Path) -> list[str]:
    return [file.path for file in list_files(root).files]


def passed(root: Path) -> dict[str, int]:
    return {kind: count for kind, count, _ in list_files(root).passed}


OWN: list[tuple[dict[str, str | None], dict[str, int]]] = [
    ({"outputs/a/summary.json": json.dumps(SUMMARY), "outputs/a/figures/x.png": None}, {RUNS: 1}),
    ({"outputs/a/.hydra/config.yaml": SWEEP, "outputs/a/train.log": "x"}, {RUNS: 1}),
    ({"s/multirun.yaml": SWEEP, "s/report.html": "x", "s/a/figures/x.png": None}, {SWEEPS: 1}),
    ({"samples.png": None, "samples.png.json": MANIFEST}, {GRIDS: 2}),
    ({"g/manifest.json": MANIFEST, "g/grid.png": None, "g/0/00000.png": None}, {SAMPLES: 1}),
    ({"wandb/offline-run-20261126_1-a/files/media/x.png": None}, {WANDB: 1}),
    ({"s.csv": TABLE, "s-strangest.png": None, "s-heat.png": None, "s-roc.png": None, "s-truth-heat.png": None},
     {TABLES: 5}),
    ({"profile.json": json.dumps({"exponents": {}}), "profile.png": None}, {PROFILES: 2}),
    # where the folder asked for is such a folder itself, its pictures are wanted, and what tells of them is not
    ({"summary.json": json.dumps(SUMMARY), "figures/x.png": None, "checkpoints/last.ckpt": "x"}, {RUN_PARTS: 3}),
    ({"manifest.json": MANIFEST, "grid.png": None}, {GRIDS: 2}),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), OWN, ids=lambda value: next(iter(value)))
def test_what_vae_lab_wrote_is_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, files: dict[str, str | None], expected: dict[str, int]
) -> None:
    put(tmp_path / "mine.png")
    for name, content in files.items():
        put(tmp_path / name, content)
    found = list_files(tmp_path)
    assert [file.path for file in found.files] == ["mine.png"]
    assert passed(tmp_path) == expected
    report_passed(tmp_path, found)
    (line,) = caplog.messages
    assert line.startswith(f"passed over in {tmp_path}: {next(iter(expected))}: {next(iter(expected.values()))} (")
    caplog.clear()
    assert [file.path for file in find(tmp_path).files] == ["mine.png"]  # detect looks by the same rules
    assert caplog.messages == [line]


LOOKALIKES = {
    "outputs/a.png": None,
    "multirun/a.png": None,
    "wandb/a.png": None,
    "figures/a.png": None,
    "generated/grid.png": None,
    "generated/manifest.json": '{"name": "my site", "images": []}',
    "b.png": None,
    "b.png.json": '{"images": 3}',
    "multirun/multirun.yaml": "model:\n  _target_: mine.Net\n",
    "other/summary.json": '{"status": "completed"}',
    "other/a.png": None,
    "broken/summary.json": "{",
    "broken/a.png": None,
    "hydra/.hydra/config.yaml": "model:\n  _target_: mine.Net\n",
    "hydra/a.png": None,
    "t.csv": "path,label\na.png,1\n",
    "t-strangest.png": None,
    "profile.png": None,
    "grid.png": None,
    "desktop.ini/a.png": None,
}


def test_what_only_looks_like_it_is_taken(tmp_path: Path) -> None:
    for name, content in LOOKALIKES.items():
        put(tmp_path / name, content)
    assert taken(tmp_path) == sorted(name for name in LOOKALIKES if "/.hydra/" not in name)
    assert passed(tmp_path) == {listing.HIDDEN: 1}


def test_whatever_is_dropped_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a.png", "deep/b.png", ".DS_Store", ".git/x.png", "._a.png", "Thumbs.db", "__MACOSX/a.png",
                 "deep/@eaDir/b.png", "deep/.thumbnails/b.png"):  # fmt: skip
        put(root / name)
    (root / "again.png").symlink_to(root / "a.png")
    (root / "round").symlink_to(root)
    (root / "dead.png").symlink_to("nowhere.png")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        listener.bind("socket.png")
        os.chdir(here)
    expected = {listing.DEAD: 1, listing.TWICE: 2, listing.HIDDEN: 4, listing.CLUTTER: 3, listing.ODD: 2}
    assert taken(root) == ["a.png", "deep/b.png"]
    assert passed(root) == expected
    assert {kind: first for kind, _, first in list_files(root).passed}[listing.DEAD] == "dead.png -> nowhere.png"


def settings(root: Path) -> dict[str, Any]:
    """Of a folder of small pictures."""
    return {
        "root": str(root), "channels": 3, "image_size": 8, "batch_size": 2, "eval_batch_size": 8, "seed": 0,
        "split_seed": 0, "val_fraction": 0.1, "test_fraction": 0.1, "on_bad": "fail", "max_pixels": 10**6,
        "background": 255, "memory_limit": 2**30, "cache": str(root.parent / "cache"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nfiles", "ndead", "sentence"),
    [(6, 20, "holds 20 broken links (first 0.jpg -> /not/mounted/0) and 6 files; mount"),
     (0, 5, "holds 5 broken links (first 0.jpg -> /not/mounted/0) and no files; mount")],
)  # fmt: skip
def test_a_folder_of_dead_links_is_an_error(tmp_path: Path, nfiles: int, ndead: int, sentence: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for i in range(nfiles):
        put(root / f"{i}.png")
    for i in range(ndead):
        (root / f"{i}.jpg").symlink_to(f"/not/mounted/{i}")
    for look in (Folder(**settings(root)).load, lambda: find(root)):
        with pytest.raises(DataError) as raised:
            look()
        assert sentence in str(raised.value)


def test_some_dead_links_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    for i in range(10):
        put(root / f"{'x' * (i + 1)}.png")
        (root / f"{i}.jpg").symlink_to(f"/not/mounted/{i}")
    data = Folder(**settings(root))
    assert sum(map(len, data.splits)) == 10
    assert data.survey.facts["passed_over"] == {listing.DEAD: 10}
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"passed over in {root}: broken links: 10 (first 0.jpg -> /not/mounted/0)" in warned


def test_a_folder_of_nothing_but_clutter_says_so(tmp_path: Path) -> None:
    put(tmp_path / "root" / ".DS_Store", "x")
    with pytest.raises(DataError, match=r"holds nothing but hidden names: 1 \(\.DS_Store\); name the folder"):
        Folder(**settings(tmp_path / "root")).load()


def test_files_named_twice_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a/b/0.png")
    put(tmp_path / "a/1.png")
    assert len(find_all([tmp_path / "a", tmp_path / "a/b"]).files) == 2
    assert "skipped 1 files that images= names twice" in caplog.messages


def test_runs_inside_the_folder_of_their_images_leave_it_the_same(
    config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    for i in range(20):
        put(tmp_path / f"pictures/{'x' * (i + 1)}.png")
    few = ("data=folder", f"data.root={tmp_path / 'pictures'}", "data.image_size=16", "data.batch_size=4", "model=mlp",
           "model.encoder.width=16", "data.on_bad=fail", "data.channels=3", "callbacks.gallery.nimages=4")  # fmt: skip
    runs = [train_run(config(*few, folder=f"pictures/outputs/{name}")) for name in "ab"]
    assert list((tmp_path / "pictures/outputs/a/figures").glob("*.png"))
    assert runs[0]["data"] == runs[1]["data"]
    assert load_data(tmp_path / "pictures/outputs/a").fingerprint == runs[0]["data"]

"""Whether two results are of the same thing."""

from pathlib import Path
from typing import Any

import pytest

from vae_lab.runs.identity import WITHOUT_EFFECT, describe_changes, differences, file_digest, identity, images_digest
from vae_lab.system.config_dir import CONF

CONFIG: dict[str, Any] = {
    "seed": 0,
    "folder": "outputs/a",
    "group": None,
    "data": {"_target_": "a.Folder", "root": "pics", "cache": "~/.cache", "batch_size": 8, "widths": [4, 8]},
    "optimizer": {"lr": 1e-3},
    "callbacks": {"gallery": {"every": 500}, "checkpoint": {"monitor": "val/neg_elbo"}},
    "logger": {"table": {"path": "outputs/a/metrics.csv"}},
}
IMAGES = {"ntrain": 8, "nval": 2, "ntest": 2, "train_digest": "a", "val_digest": "b", "test_digest": "c"}

SAME: dict[str, dict[str, Any]] = {
    "moved images": {"data": {"root": "/elsewhere/pics", "cache": "/tmp"}},
    "another folder": {"folder": "b", "group": "mine", "logger": {"wandb": {"id": "x"}}},
    "pictures more often": {"callbacks": {"gallery": {"every": 5}}},
    "whole numbers as floats": {"data": {"batch_size": 8.0}},
    "a setting that is off": {"model": {"nclasses": 0, "bias": None, "spatial": False}},
    "threads": {"threads": 2},
}
OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "rate": ({"optimizer": {"lr": 5e-2}}, "optimizer.lr=0.001 (here 0.05)"),
    "a list": ({"data": {"widths": [4, 9]}}, "data.widths.1=8 (here 9)"),
    "a class": ({"data": {"_target_": "a.Digits"}}, "data=a.Folder (here a.Digits)"),
    "what is kept": (
        {"callbacks": {"checkpoint": {"monitor": None}}},
        "callbacks.checkpoint.monitor=val/neg_elbo (here null)",
    ),
    "a new callback": ({"callbacks": {"ema": {"decay": 0.9}}}, "callbacks.ema.decay=null (here 0.9)"),
    "evaluation batch": ({"data": {"eval_batch_size": 4}}, "data.eval_batch_size=null (here 4)"),
}


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The config with some of its settings changed."""
    both = {
        key: merged(config.get(key) or {}, value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return config | both


@pytest.mark.parametrize("name", SAME)
def test_what_changes_no_result_does_not_count(name: str) -> None:
    now = merged(CONFIG, SAME[name])
    assert identity(now, IMAGES) == identity(CONFIG, IMAGES)
    assert differences(CONFIG, now) == []


@pytest.mark.parametrize("name", OTHER)
def test_everything_else_counts_and_is_named(name: str) -> None:
    changes, sentence = OTHER[name]
    now = merged(CONFIG, changes)
    assert identity(now, IMAGES) != identity(CONFIG, IMAGES)
    assert describe_changes(differences(CONFIG, now)) == sentence


def test_images_and_protocol_count() -> None:
    protocols = [None, {"split": "test", "nsamples": 5}, {"split": "test", "nsamples": 50}]
    found = {identity(CONFIG, images, one) for images in (None, IMAGES, IMAGES | {"ntrain": 9}) for one in protocols}
    assert len(found) == 9
    assert images_digest(IMAGES) != images_digest(IMAGES | {"test_digest": "d"})
    assert images_digest({}) is images_digest(None) is None


def test_a_value_that_is_repeated_is_told_once_and_many_are_cut_short() -> None:
    seeds = {"seed": 1, "data": {"seed": 1}, "task": {"seed": 1}}
    assert describe_changes(differences({}, seeds)) == "seed=null (here 1)"
    assert describe_changes(differences({}, {f"a{i}": i for i in range(1, 10)})).endswith("a6=null (here 6) and 3 more")


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items():
        (tmp_path / name).write_bytes(content)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
    assert file_digest(tmp_path / "nowhere") == ""


def test_what_is_left_out_of_the_comparison_is_there() -> None:
    """A key of the list that no config has would leave out nothing, for instance after it was renamed."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    elsewhere = ("launcher", "threads")  # not a part of the job's config, or not of every version's
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data=monet", "folder=mine"])
    missing = [key for key in WITHOUT_EFFECT if OmegaConf.select(cfg, key, default="missing") == "missing"]
    assert set(missing) <= set(elsewhere)

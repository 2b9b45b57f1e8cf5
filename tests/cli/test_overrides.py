"""Overrides in which a number of another type, or None, can mean only one thing are normalised."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from invoking import invoke
from omegaconf import OmegaConf

from vae_lab.cli.overrides import SHARES, normalise_overrides, settle_limits
from vae_lab.errors import DataError
from vae_lab.system.atomic import expand_wildcards
from vae_lab.system.config_dir import CONF
from vae_lab.train import main

EXACT = {
    "model.nlatent=4.0": "model.nlatent=4",
    "model.nlatent=4.": "model.nlatent=4",
    "model.nlatent=4.5": "model.nlatent=4.5",
    "model.nlatent=2.0,8.0": "model.nlatent=2,8",
    "trainer.max_steps=1e3": "trainer.max_steps=1000",
    "trainer.max_steps=1E+2": "trainer.max_steps=100",
    "seed=3.0": "seed=3",
    "data.seed=3.0": "data.seed=3",  # which refers to seed
    "data.binarize=None": "data.binarize=null",
    "data.binarize=static": "data.binarize=static",
    "optimizer.lr=1.0": "optimizer.lr=1.0",
    "optimizer.lr=1e-3": "optimizer.lr=1e-3",
    "seed=1.0": "seed=1",
    "likelihood.variance=2.0": "likelihood.variance=2.0",
    "+trainer.limit_train_batches=1.0": "+trainer.limit_train_batches=1.0",
    "model.nothing=1.0": "model.nothing=1.0",
    "folder=None": "folder=null",
    "group=1.0": "group=1.0",  # a name
    "data.root=None": "data.root=null",
    "group='None'": "group='None'",
    "data.only=[3.0]": "data.only=[3.0]",
    "-m": "-m",
    "--config-dir=1.0": "--config-dir=1.0",
}


@pytest.mark.parametrize("text", EXACT)
def test_a_number_is_what_the_setting_counts_in(text: str) -> None:
    assert normalise_overrides([text], "train") == [EXACT[text]]
    assert normalise_overrides([EXACT[text]], "train") == [EXACT[text]]


def test_the_groups_that_are_chosen_decide() -> None:
    arguments = ["model=mlp", "model.encoder.width=16.0", "model.encoder.nblocks=2.0"]
    assert normalise_overrides(arguments, "train") == ["model=mlp", "model.encoder.width=16", "model.encoder.nblocks=2"]
    assert normalise_overrides(["nbound=50.0", "seed=None"], "evaluate") == ["nbound=50", "seed=null"]


def whole_numbers(config_name: str) -> list[str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(config_name)
    names: list[str] = []

    def visit(node: object, prefix: str) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, int) and not isinstance(value, bool):
                names.append(f"{prefix}{key}")
            visit(value, f"{prefix}{key}.")

    visit(OmegaConf.to_container(config, resolve=False), "")
    names = [name for name in names if not name.startswith("search.space.")]  # whose keys hold points themselves
    return [name for name in names if name not in SHARES]  # which are shares of an epoch with a point


@pytest.mark.parametrize("command", ["train", "tune", "evaluate", "generate", "detect", "profile"])
def test_every_whole_number_of_a_command_may_have_a_point(command: str) -> None:
    names = whole_numbers(command)
    assert names
    assert normalise_overrides([f"{name}=7.0" for name in names], command) == [f"{name}=7" for name in names]


def test_a_sweep_agent_s_line_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agent = ["model.nlatent=4.0", "data.binarize=None", "optimizer.lr=0.001", "seed=1.0", "trainer.max_steps=2.0"]
    settings = ["data=synthetic", "model=mlp", "trainer.val_check_interval=2", "logger=none", "hydra.run.dir=run"]
    assert invoke(main, "train", *settings, *agent, monkeypatch=monkeypatch) == 0
    lines = Path("run/.hydra/overrides.yaml").read_text().splitlines()[-5:]
    assert lines == [f"- {EXACT.get(text, text)}" for text in (*agent[:4], "trainer.max_steps=2")]


def test_a_count_that_is_not_whole_is_still_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["data=synthetic", "model.nlatent=4.0", "data.batch_size=4.5"]
    assert invoke(main, "train", *arguments, monkeypatch=monkeypatch) == 2
    assert "batch_size" in "".join(capfd.readouterr())  # the tests' type checks are as strict


def test_wildcards_that_a_shell_has_left_are_filled_in(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png", "a[1].png"):
        (tmp_path / name).touch()
    names = [path.name for path in expand_wildcards([tmp_path / "a?.png", tmp_path / "b.png"], "images")]
    assert names == ["a1.png", "a2.png", "b.png"]
    assert expand_wildcards([tmp_path / "a[1].png"], "images") == [tmp_path / "a[1].png"]
    assert expand_wildcards([tmp_path / "none.png"], "images") == [tmp_path / "none.png"]
    with pytest.raises(DataError, match=r"images=.*c\*\.png matches no file"):
        expand_wildcards([tmp_path / "c*.png"], "images")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of configs beside vae_lab's, with a blank in its name."""
    folder = tmp_path / "my configs"
    for name, text in {
        "data/mine": "defaults: [synthetic, _self_]\nnimages: 32\n",
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /data: mine\n",
    }.items():
        (folder / f"{name}.yaml").parent.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("choice", ["data=mine", "experiment=mine"])
def test_a_number_is_understood_in_configs_of_ones_own(own: Path, choice: str) -> None:
    for where in (["--config-dir", str(own)], [f"--config-dir={own}"], [f"hydra.searchpath=['file://{own}']"]):
        assert normalise_overrides([*where, choice, "data.nimages=16.0"], "train")[-1] == "data.nimages=16"
        assert normalise_overrides([*where, choice, "data.nimages=16.0", "-m"], "train")[-2] == "data.nimages=16"
    assert normalise_overrides([choice, "data.nimages=16.0"], "train") == [choice, "data.nimages=16.0"], (
        "nobody knows it"
    )


def test_help_shows_the_choices_of_ones_own(own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert invoke(main, "train", "--config-dir", str(own), "--help", monkeypatch=monkeypatch) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("data: ")]
    assert "mine, mnist" in line


@pytest.mark.parametrize("limit", ["max_epochs=2", "max_time=00:00:01:00"])
def test_a_typed_limit_switches_the_default_number_of_steps_off(limit: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"trainer.{limit}"])
    settle_limits(cfg, [f"trainer.{limit}"])
    assert cfg.trainer.max_steps == -1
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"trainer.{limit}", "trainer.max_steps=5"])
    settle_limits(cfg, [f"trainer.{limit}", "trainer.max_steps=5"])
    assert cfg.trainer.max_steps == 5

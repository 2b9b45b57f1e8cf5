"""A run from config to folder: what it writes, and that it can be repeated, resumed and read back."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from sweeping import LIMIT

from vae_lab.errors import DataError, DivergedError
from vae_lab.runs.load import load_data
from vae_lab.system.signals import SIGNALS
from vae_lab.training.run import build_parts, train_run

Compose = Callable[..., DictConfig]


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_keeps_its_contract(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = trained
    figures = {
        f"figures/{name}.png" for name in ("reconstructions", "samples", "traversals", "latents", "map", "curves")
    }
    promised = {".lock", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv", "summary.json"} | figures
    files = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "wandb" not in path.parts
    }
    assert files == promised
    assert json.loads((folder / "summary.json").read_text()) == summary
    names = ("neg_elbo", "distortion", "rate", "mse", "sse_kl")
    assert {f"{part}/{name}" for part in ("val", "test") for name in names} <= summary.keys()
    assert {"setup", "fit", "training", "total"} == summary["seconds"].keys()
    assert (summary["status"], summary["steps"], summary["wandb_mode"]) == ("completed", 4, "offline")
    assert summary["test/neg_elbo"] == pytest.approx(summary["test/distortion"] + summary["test/rate"], rel=1e-6)
    assert summary["data"]["ntrain"] == 48
    assert {
        "images_per_second",
        "parameters",
        "device",
        "precision",
        "versions",
        "commit",
        "wandb_id",
    } <= summary.keys()


def test_steps_are_batches_and_the_table_holds_every_one(trained: tuple[Path, dict[str, Any]]) -> None:
    table = rows(trained[0])
    assert [row["step"] for row in table if row["train/loss"]] == ["1", "2", "3", "4"]
    assert [row["step"] for row in table if row["val/neg_elbo"]] == ["2", "4"]
    assert [row["step"] for row in table if row["test/neg_elbo"]] == ["4"]


def test_the_offline_wandb_file_holds_images_and_metrics(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = trained
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    logged: dict[str, Any] = {}
    for item in history:
        logged |= item
    assert logged["test/neg_elbo"] == pytest.approx(summary["test/neg_elbo"])
    assert {"train/loss", "val/neg_elbo", "val/sse_kl"} <= logged.keys()
    assert {"latents/posterior_means._type", "latents/rate._type"} <= logged.keys()
    assert [item["trainer/global_step"] for item in history if "train/loss" in item] == [1, 2, 3, 4]
    for name in ("reconstructions", "samples", "traversals"):
        steps = [item["trainer/global_step"] for item in history if f"{name}._type" in item]
        assert steps == [2, 4]
        (path,) = logged[f"{name}.filenames"]
        with Image.open(file.parent / "files" / path) as picture, Image.open(folder / f"figures/{name}.png") as own:
            assert picture.tobytes() == own.tobytes()
            assert picture.convert("L").entropy() > 1, "a float image turns into a black one in W&B"
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["project"], run["run_group"], run["run_id"]) == ("vae_lab", "tests", summary["wandb_id"])
    config = [record["config"]["update"] for record in records if record["type"] == "config"]
    assert config[0]["model"]["nlatent"] == 8
    assert records[-1]["exit"]["exit_code"] == 0


def test_the_same_seed_gives_the_same_run(config: Compose, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_run(config(folder=name))
    train_run(config("seed=1", folder="c"))
    train_run(config("callbacks.gallery.every=1", "callbacks.gallery.nimages=3", folder="d"))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "d")), "pictures must not change training"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_validations_and_logs_do_not_change_training(config: Compose, tmp_path: Path, precision: str) -> None:
    settings = (f"trainer.precision={precision}", "trainer.max_steps=6")
    train_run(config(*settings, "trainer.val_check_interval=1", folder="often"))
    train_run(config(*settings, "trainer.val_check_interval=6", "trainer.log_every_n_steps=4", folder="once"))
    assert same(weights(tmp_path / "often"), weights(tmp_path / "once"))


@pytest.mark.parametrize("stop", [2, 7])
def test_a_resumed_run_is_the_uninterrupted_one(config: Compose, tmp_path: Path, stop: int) -> None:
    settings = ("schedule=one_cycle", "schedule.total_steps=10", "trainer.val_check_interval=100")
    whole = train_run(config("trainer.max_steps=10", *settings, folder="whole"))
    train_run(config(f"trainer.max_steps={stop}", *settings, folder="first"))
    resumed = train_run(config("trainer.max_steps=10", f"resume={tmp_path / 'first'}", *settings, folder="second"))
    assert resumed["steps"] == 10
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "second"))
    assert resumed["test/neg_elbo"] == whole["test/neg_elbo"]
    expected = {row["step"]: row["train/loss"] for row in rows(tmp_path / "whole")}
    assert {row["step"]: row["train/loss"] for row in rows(tmp_path / "second")}.items() <= expected.items()
    optimizers = [
        torch.load(tmp_path / n / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"]
        for n in ("whole", "second")
    ]
    assert str(optimizers[0]) == str(optimizers[1])


RESUMED: dict[str, tuple[str, str]] = {
    "model": ("model.nlatent=3", r"that run had model.nlatent=8 \(here 3\)\. Repeat"),
    "seed": ("seed=1", r"that run had seed=0 \(here 1\)\. Repeat"),
    "schedule": ("schedule=one_cycle", r"schedule=\S+ConstantLR \(here \S+OneCycleLR\)\. Repeat"),
    "split": (
        "data.split_seed=1",
        r"data.split_seed=0 \(here 1\); other images .* 48 \+ 8 \+ 8 \(here 48 \+ 8 \+ 8\)\.",
    ),
}
"""An override, and what is said if it differs from the run to go on from."""


def test_resuming_another_run_is_refused_and_names_what_differs(config: Compose, tmp_path: Path) -> None:
    train_run(config(folder="first"))
    for name, (override, sentence) in RESUMED.items():
        with pytest.raises(ValueError, match=sentence):
            train_run(config(override, f"resume={tmp_path / 'first'}", folder=name))
    with pytest.raises(DataError, match="no checkpoint"):
        train_run(config(f"resume={tmp_path / 'nowhere'}", folder="third"))


def make_pictures(folder: Path, number: int, first: int = 0) -> Path:
    """Write grey pictures of one colour each."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + number):
        Image.new("L", (16, 16), 3 * i).save(folder / f"{i}.png")
    return folder


def test_the_same_images_elsewhere_are_the_same_and_others_are_not(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_pictures(tmp_path / "here", 40)
    make_pictures(tmp_path / "staged", 40)
    common = ("data=folder", "data.channels=1", "data.image_size=16", "data.batch_size=8", "model=mlp")
    train_run(config(*common, "data.root=here", folder="first"))
    monkeypatch.chdir(tmp_path / "staged")
    assert len(load_data(tmp_path / "first").splits.train) == 32, "a relative root is stored absolute"
    moved = (
        f"data.root={tmp_path / 'staged'}",
        f"data.cache={tmp_path}",
        "data.memory_limit=1",
        "data.eval_batch_size=2",
    )
    again = (*common, f"resume={tmp_path / 'first'}", "trainer.max_steps=6")
    assert train_run(config(*again, *moved, folder="second"))["steps"] == 6
    make_pictures(tmp_path / "staged", 1, first=40)
    sentence = (
        r"other images in its three parts: 32 \+ 4 \+ 4 \(here 33 \+ 4 \+ 4\), data.root=\S+here \(here \S+staged\)"
    )
    with pytest.raises(ValueError, match=sentence):
        train_run(config(*again, *moved, folder="third"))


def test_a_run_of_another_version_is_named_when_it_goes_on(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run(config(folder="first"))
    train_run(config(f"resume={tmp_path / 'first'}", "trainer.max_steps=5", folder="second"))
    assert "started that run" not in caplog.text
    path = tmp_path / "first" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "1" * 40}))
    train_run(config(f"resume={tmp_path / 'first'}", "trainer.max_steps=5", folder="third"))
    assert f"(commit {'1' * 40}) started that run, and " in caplog.text


def test_validation_runs_at_the_end_of_a_run_of_any_length(config: Compose, tmp_path: Path) -> None:
    train_run(config("trainer.max_steps=5", "trainer.val_check_interval=3"))
    assert [row["step"] for row in rows(tmp_path / "run") if row["val/neg_elbo"]] == ["3", "5"]
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_divergence_is_an_error_and_spares_the_checkpoint(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="batches"):
        train_run(config("optimizer.lr=1e30", "trainer.max_steps=50", "trainer.val_check_interval=1"))
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "diverged"
    for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        assert all(weight.isfinite().all() for weight in weights(tmp_path / "run", path.stem).values())


def test_the_tested_weights_are_those_with_the_best_validation(config: Compose, tmp_path: Path) -> None:
    unweighted = ("objective.beta=0.0", "optimizer.lr=0.01")  # a term without weight grows, so that later is worse
    summary = train_run(config(*unweighted, "trainer.max_steps=8", "trainer.val_check_interval=1"))
    validations = [float(row["val/neg_elbo"]) for row in rows(tmp_path / "run") if row["val/neg_elbo"]]
    stored = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert stored["global_step"] == 1 + validations.index(min(validations)) < 8
    first = train_run(config(*unweighted, f"trainer.max_steps={stored['global_step']}", folder="first"))
    assert summary["test/neg_elbo"] == first["test/neg_elbo"]
    assert summary["tested"] == "best.ckpt"
    validated = {name: value for name, value in first.items() if name.startswith("val/")}
    assert len(validated) == 5
    assert validated.items() <= summary.items(), "the validation of the tested weights, not the last one"
    assert summary["val/neg_elbo"] == pytest.approx(min(validations))


def test_a_number_that_is_none_is_not_left_out_of_a_mean(config: Compose) -> None:
    """The metrics' default drops NaN and averages the rest, which would hide a diverged model."""
    _, task, _ = build_parts(config(), {})
    task.means["neg_elbo"].update(torch.tensor([1.0, float("nan")]))
    assert task.means["neg_elbo"].compute().isnan()


def test_a_run_leaves_the_signals_as_they_were(config: Compose) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    train_run(config())
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_bfloat16_trains(config: Compose) -> None:
    assert train_run(config("trainer.precision=bf16-mixed"))["precision"] == "bf16-mixed"


def test_the_first_steps_of_the_seed_network_give_the_stored_loss(config: Compose, tmp_path: Path) -> None:
    """A refactor that changes these numbers changes what is trained."""
    train_run(config("data=digits", "data.batch_size=32", "trainer.val_check_interval=4"))
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert losses == pytest.approx(GOLDEN, abs=0.05)


GOLDEN = [571.352, 567.992, 562.901, 552.402]


def test_a_wandb_run_whose_id_is_still_in_use_gets_another(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb
    from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

    opened, init = [], wandb.init

    def in_use(**arguments: Any) -> Any:
        opened.append(arguments["id"])
        if arguments["id"] == "taken":
            raise ServerResponseError("run ID taken is in use")
        return init(**arguments)

    monkeypatch.setattr(wandb, "init", in_use)
    summary = train_run(config("logger=wandb", "logger.wandb.id=taken"))
    assert opened == ["taken", None]
    assert summary["status"] == "completed"
    assert summary["wandb_id"] != "taken"

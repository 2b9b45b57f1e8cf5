"""Metrics, hyper-parameters and pictures reach each logger that is chosen in Hydra's own way."""

import csv
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from invoking import invoke
from lightning.pytorch.loggers import Logger
from logged import Logged, of_kind, read_mlflow, read_tensorboard, read_wandb, wandb_records
from omegaconf import DictConfig
from PIL import Image

from vae_lab.errors import DivergedError
from vae_lab.latents.encoding import encode_images
from vae_lab.runs.load import load_data, load_model
from vae_lab.system.config_dir import CONF
from vae_lab.train import main
from vae_lab.training.loggers.packages import is_installed
from vae_lab.training.loggers.pictures import drawn_bars, log_histogram, log_image, takes_images
from vae_lab.training.run import train_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*", "ignore:The ``noload``")
TINY = (
    "data=synthetic", "model=mlp", "model.encoder.width=8", "model.nlatent=3", "callbacks.gallery.nimages=4",
    "trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1", "trainer.precision=32-true",
    "threads=1",
)  # fmt: skip
GRIDS = ("reconstructions", "samples", "traversals")
TABLE = "latents/images"
HISTOGRAMS = ("latents/posterior_means", "latents/rate")
DOCS = Path(__file__).parents[2] / "docs" / "loggers.md"
MINE = "# @package _global_\ndefaults:\n  - override /logger: [wandb, tensorboard]\n"


class Listed(Logger):
    """Somebody's own logger, with Lightning's name for pictures."""

    name = "listed"  # pyright: ignore[reportAssignmentType]
    version = "0"  # pyright: ignore[reportAssignmentType]
    heard: Logged

    def __init__(self) -> None:
        super().__init__()
        Listed.heard = Logged({}, {}, {})

    def log_hyperparams(self, params: dict[str, Any], *args: object, **kwargs: object) -> None:
        self.heard.settings.update({"model.nlatent": params["model"]["nlatent"]})

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.heard.metrics.update(metrics)

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        assert all(image.dtype == "uint8" and image.ndim == 3 for image in images)
        self.heard.media.setdefault(key, []).append(step)


class Closed(Listed):
    """Somebody's own logger, which is told how a run ended."""

    codes: ClassVar[list[int]] = []

    def close(self, exit_code: int) -> None:
        self.codes.append(exit_code)


def read_csv(folder: Path) -> Logged:
    """What Lightning's CSVLogger knows, which has no pictures."""
    import yaml

    (path,) = folder.rglob("lightning_logs/version_0/metrics.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    metrics = {name: float(value) for row in rows for name, value in row.items() if value}
    stored = yaml.safe_load((path.parent / "hparams.yaml").read_text())
    return Logged(metrics, {"model.nlatent": stored["model"]["nlatent"]}, {})


READERS: dict[str, Callable[[Path], Logged]] = {
    "wandb": read_wandb,
    "tensorboard": lambda run: read_tensorboard(run / "tensorboard"),
    "mlflow": lambda run: read_mlflow(run / "mlflow"),
    "csv": read_csv,
    "mylab": lambda _: Listed.heard,
}
LIGHTNINGS = "logger=none +logger.mine._target_=lightning.pytorch.loggers"
ROWS: dict[str, tuple[str, ...]] = {
    "logger=wandb": ("wandb",),
    "logger=tensorboard": ("tensorboard",),
    "logger=mlflow": ("mlflow",),
    "'logger=[wandb,tensorboard]'": ("wandb", "tensorboard"),
    "logger=none": (),
    "'logger=[]'": (),
    "-m 'logger=[wandb,tensorboard]' seed=0,1": ("wandb", "tensorboard"),
    "experiment=mine": ("wandb", "tensorboard"),
    f"{LIGHTNINGS}.WandbLogger '+logger.mine.save_dir=${{folder}}'": ("wandb",),
    f"{LIGHTNINGS}.CSVLogger '+logger.mine.save_dir=${{folder}}'": ("csv",),
    "logger=none +logger.mine._target_=mylab.Listed": ("mylab",),
}
"""What is typed, and which loggers have everything then."""


def require(*packages: str) -> None:
    """Skip the test, by the name of the package that is missing."""
    for package in packages:
        if not is_installed(package):
            pytest.skip(f"{package} is not installed")


def test_each_row_of_the_documentation_is_tested() -> None:
    lines = DOCS.read_text().split("\n\n## ")[0].splitlines()
    typed = [re.findall(r"^\| `([^`]+)`", line) for line in lines]
    assert [found[0] for found in typed if found] == list(ROWS)
    assert {f"logger={path.stem}" for path in (CONF / "logger").glob("*.yaml")} <= ROWS.keys()


@pytest.mark.parametrize("typed", ROWS)
def test_what_is_chosen_gets_metrics_settings_and_pictures(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    require(*(name for name in ROWS[typed] if name in ("tensorboard", "mlflow")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mylab", sys.modules[__name__])
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(MINE)
    sweeps = typed.startswith("-m")
    place = ["hydra.sweep.dir=sweeps"] if sweeps else ["hydra.run.dir=run"]
    assert (
        invoke(main, "train", "--config-dir", "conf", *shlex.split(typed), *TINY, *place, monkeypatch=monkeypatch) == 0
    )
    runs = sorted(path.parent for path in tmp_path.glob("**/summary.json"))
    assert len(runs) == (2 if sweeps else 1)
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        assert (run / "metrics.csv").read_text().count("\n") == 5  # four batches, and the names
        assert {path.name for path in run.iterdir() if path.name in READERS} == set(ROWS[typed]) - {"csv", "mylab"}
        for name in ROWS[typed]:
            check(READERS[name](run), summary, pictures=name != "csv")
    told = f"logger.mine does not accept images; they are in {tmp_path}/run/figures"
    assert (told in capfd.readouterr().out) == ("CSV" in typed)


def check(logged: Logged, summary: dict[str, Any], *, pictures: bool) -> None:
    """Hold what a logger knows against the run's summary."""
    for name in ("val/neg_elbo", "test/neg_elbo", "test/rate"):
        assert logged.metrics[name] == pytest.approx(summary[name], rel=1e-6)
    assert {"train/loss", "train/lr"} <= logged.metrics.keys()
    assert str(logged.settings["model.nlatent"]) == "3"
    expected = {name: [2, 4] for name in (*GRIDS, *HISTOGRAMS)} if pictures else {}
    found = {name: sorted(steps) for name, steps in logged.media.items() if name != TABLE}
    assert found == expected


def test_wandb_has_a_table_of_latents_with_their_images(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    train_run(config(*TINY, "logger=wandb", "callbacks.latents.nlogged=5", "model.nlatent=3"))
    (artifact,) = of_kind(wandb_records(tmp_path / "run"), "artifact")
    places = {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}
    assert all(place.is_relative_to(tmp_path / "run") for place in places.values())
    content = json.loads(places[f"{TABLE}.table.json"].read_text())
    assert content["columns"][:2] == ["image", "class"]
    names = content["columns"][2:]
    rates = [float(re.fullmatch(r"latent \d \(KL ([\d.]+)\)", name)[1]) for name in names]  # pyright: ignore[reportOptionalSubscript]
    assert rates == sorted(rates, reverse=True)
    order = [int(name[7]) for name in names]
    images, means = validation_images(tmp_path / "run", 5)
    assert len(content["data"]) == 5
    for (image, name, *z), pixels, mean in zip(content["data"], images, means, strict=True):
        with Image.open(places[image["path"]]) as picture:
            assert torch.from_numpy(np.array(picture.convert("L"))).equal(pixels[0])
        assert name.isdigit()
        np.testing.assert_allclose(z, mean[order], atol=1e-3)
    assert read_wandb(tmp_path / "run").media[TABLE] == [4]


def validation_images(run: Path, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first validation images of a run, and their posterior means by its last weights."""
    images = load_data(run).splits.val.pixels(slice(n))
    return images, encode_images(load_model(run, "last"), images)


def test_tensorboard_has_a_projector_of_latents(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    require("tensorboard")
    train_run(config(*TINY, "logger=tensorboard", "callbacks.latents.nlogged=5"))
    folder = tmp_path / "run" / "tensorboard"
    assert "00004/latents-images/tensors.tsv" in (folder / "projector_config.pbtxt").read_text()
    images, means = validation_images(tmp_path / "run", 5)
    places = folder / "00004" / "latents-images"
    np.testing.assert_allclose(np.loadtxt(places / "tensors.tsv"), means, atol=1e-3)
    assert len((places / "metadata.tsv").read_text().splitlines()) == 5
    side = images.shape[-1]
    with Image.open(places / "sprite.png") as sprite:
        assert sprite.size == (3 * side, 3 * side)
        first = torch.from_numpy(np.array(sprite.convert("L")))[:side, :side]
    assert (first.int() - images[0, 0].int()).abs().max() <= 1


def test_latents_are_logged_only_if_asked_for(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    train_run(
        config(
            *TINY, "logger=wandb", "~callbacks.gallery", "callbacks.latents.nlogged=0", "callbacks.latents.map=false"
        )
    )
    assert TABLE not in read_wandb(tmp_path / "run").media
    assert sorted(path.name for path in (tmp_path / "run" / "figures").iterdir()) == ["latents.png"]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_package_that_is_missing_is_told_before_the_images_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    (tmp_path / name).mkdir()  # which Python would take for a package
    settings = ("data=folder", "data.root=nowhere", f"logger=[{name},wandb]", "hydra.run.dir=run")
    assert invoke(main, "train", *settings, monkeypatch=monkeypatch) == 2
    said = capfd.readouterr().out
    assert f"logger={name} is not installed: pip install 'vae_lab[{name}]', or choose logger=none." in said
    assert not (tmp_path / "run" / "wandb").exists()


def test_somebodys_logger_without_its_package_is_told_in_a_sentence(config: Callable[..., DictConfig]) -> None:
    cfg = config("+logger.mine._target_=lightning.pytorch.loggers.CometLogger")
    with pytest.raises(ValueError, match=r"logger\.mine: .*comet"):
        train_run(cfg)


def test_a_logger_that_cannot_be_opened_leaves_no_other_one_open(config: Callable[..., DictConfig]) -> None:
    import wandb

    with pytest.raises(ValueError, match="comet"):
        train_run(config("logger=wandb", "+logger.mine._target_=lightning.pytorch.loggers.CometLogger"))
    assert wandb.run is None


def test_an_mlflow_server_that_does_not_answer_ends_the_run_with_the_code_of_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    require("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = "logger.mlflow.tracking_uri=http://127.0.0.1:9"
    assert invoke(main, "train", *TINY, "logger=mlflow", server, "hydra.run.dir=run", monkeypatch=monkeypatch) == 5
    assert "Connection refused" in capfd.readouterr().out


def test_each_run_has_its_own_mlflow_store_in_a_folder_of_almost_any_name(
    config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    require("mlflow")
    cfg = config("logger=mlflow", *TINY)
    for name in ("einzeln, [1] = x #y", "zweitens"):  # in one process, as in a sweep
        cfg.folder = str(tmp_path / name)
        summary = train_run(cfg)
        assert "MLFLOW_TRACKING_URI" not in os.environ
        check(read_mlflow(tmp_path / name / "mlflow"), summary, pictures=True)
    for name in ("what?", "100%41"):
        cfg.folder = str(tmp_path / name)
        with pytest.raises(InstantiationException, match=r"with \? or % in its name"):
            train_run(cfg)


def test_metrics_csv_is_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "train", *TINY, "logger=csv", monkeypatch=monkeypatch) == 2
    assert "Could not find 'logger/csv'; choose one of mlflow, none, tensorboard, wandb." in caplog.messages


class Taught(Logger):
    """A logger with a word of its own for pictures."""

    name = "taught"  # pyright: ignore[reportAssignmentType]
    version = "0"  # pyright: ignore[reportAssignmentType]
    shown: tuple[str, tuple[int, ...], int]

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...


def test_a_logger_is_taught_pictures_in_one_function() -> None:
    logger = Taught()
    assert not takes_images(logger)

    @log_image.register(Taught)
    def _(logger: Taught, name: str, picture: torch.Tensor, step: int) -> None:
        logger.shown = name, tuple(picture.shape), step

    assert takes_images(logger)
    heights, edges = torch.tensor([1.0, 3.0, 2.0]).numpy(), torch.arange(4.0).numpy()
    log_histogram(logger, "rate", heights, edges, 7)
    assert logger.shown == ("rate", (3, 300, 500), 7)
    picture = drawn_bars("rate", heights, edges)
    assert picture.dtype == torch.uint8
    assert picture.float().std() > 1


@pytest.mark.parametrize(("settings", "code"), [((), 0), (("optimizer.lr=1e30",), 1)])
def test_a_logger_is_told_how_the_run_ended(
    config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(Closed, "codes", [])
    mine = f"+logger.mine._target_={__name__}.Closed"
    with nullcontext() if code == 0 else pytest.raises(DivergedError):
        train_run(config(*TINY, "logger=none", mine, *settings))
    assert Closed.codes == [code]

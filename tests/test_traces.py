"""A command that fails has written nothing, and says in one sentence why."""

import importlib
from pathlib import Path

import pytest
from detecting import save_pictures, trained_run
from hydra import compose, initialize_config_dir
from invoking import invoke

from vae_lab.conf_folder import CONF
from vae_lab.training import train
from vae_lab.trial import LOCK

FOLDER = [
    "data=folder", "data.image_size=16", "data.channels=1", "data.batch_size=4", "model=mlp", "model.encoder.width=16",
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.precision=32-true", "logger=none",
]  # fmt: skip
FAULTS: dict[str, tuple[str, int, str]] = {
    "train, a wrong setting": ("train model.nlatent=0", 2, "model.nlatent must be a whole number"),
    "train, no such group": ("train experiment=none", 2, "Could not find 'experiment/none'"),
    "train, a batch too large": ("train data=synthetic data.batch_size=65", 2, "training part of 48 images"),
    "train, no such images": ("train data=folder data.root=nowhere", 3, "nowhere does not exist"),
    "train, no root": ("train data=folder", 3, "data.root="),
    "train, damaged images": ("train data=folder data.root=damaged", 3, "damaged"),
    "train, a folder of its own": ("train hydra.run.dir=new/run model.nlatent=0", 2, "model.nlatent"),
    "train, an empty folder of its own": ("train hydra.run.dir=empty model.nlatent=0", 2, "model.nlatent"),
    "train, a folder in use": ("train data=synthetic hydra.run.dir=RUN", 2, "already holds a run"),
    "train, no run to resume": ("train data=synthetic resume=latest", 3, "there is no checkpoint"),
    "train, a wrong logger": (
        "train data=synthetic logger=wandb logger.wandb.mode=maybe", 2, "logger.wandb.mode must be one of",
    ),
    "tune, no trials": ("tune search.ntrials=0", 2, "search.ntrials must be a whole number"),
    "tune, a folder": ("tune folder=elsewhere", 2, "a search names its folders itself"),
    "tune, no such search": ("tune search=none", 2, "Could not find 'search/none'"),
    "tune, a wrong direction": ("tune search.metrics={val/neg_elbo:up}", 2, "must be minimize or maximize"),
    "evaluate, no run": ("evaluate", 2, "run= must be given: a run folder."),
    "evaluate, latest": ("evaluate run=latest", 3, "there is no checkpoint at"),
    "evaluate, latest, another out": ("evaluate run=latest out=here", 3, "there is no checkpoint at"),
    "evaluate, no such checkpoint": (
        "evaluate run=RUN/checkpoints/none.ckpt", 3, "none.ckpt; run= takes the folder of",
    ),
    "evaluate, a file that is none": ("evaluate run=RUN/summary.json", 3, "is no checkpoint of vae_lab"),
    "evaluate, another checkpoint": ("evaluate run=RUN checkpoint=worst", 2, "checkpoint must be best or last"),
    "evaluate, a wrong split": ("evaluate run=RUN split=all", 2, "split must be one of"),
    "evaluate, no samples": ("evaluate run=RUN nsamples=0 out=here", 2, "nsamples must be a whole number"),
    "evaluate, no such images": ("evaluate run=FILES data.root=nowhere out=here", 3, "nowhere does not exist"),
    "evaluate, a picture": ("evaluate run=RUN out=x.jpg", 2, "out=x.jpg is the name of a file, and a folder"),
    "evaluate, a page": ("evaluate run=RUN out=x.html", 2, "out=x.html is the name of a file, and a folder"),
    "evaluate, too few": ("evaluate run=RUN nll_images=2 out=here", 2, "at least 4 images of each kind"),
    "evaluate, no such extractor": ("evaluate run=RUN features=magic out=here", 2, "features=magic"),
    "generate, no run": ("generate", 2, "run= must be given: a run folder."),
    "generate, latest": ("generate run=latest", 3, "there is no checkpoint at"),
    "generate, no images": ("generate run=RUN n=0", 2, "n must be a whole number"),
    "generate, no class": ("generate run=RUN class=3", 2, "knows no classes"),
    "generate, no sampler": ("generate run=RUN sampler=magic", 2, "sampler=magic"),
    "generate, no images to fit to": ("generate run=FILES sampler=gmm data.root=nowhere", 3, "nowhere does not exist"),
    "generate, a picture": ("generate run=RUN out=x.jpg", 2, "out=x.jpg is the name of a file, and a .png or a folder"),
    "generate, a table": ("generate run=RUN out=x.csv", 2, "out=x.csv is the name of a file, and a .png or a folder"),
    "generate, a file": ("generate run=RUN out=RUN/summary.json", 2, "out="),
    "detect, nothing": ("detect", 2, "run= and images= must be given; --help tells"),
    "detect, no images": ("detect run=RUN", 2, "images= must be given: a folder, a file, or several"),
    "detect, latest": ("detect run=latest images=PICTURES", 3, "there is no checkpoint at"),
    "detect, no such images": ("detect run=RUN images=nowhere", 3, "nowhere cannot be read"),
    "detect, a picture": ("detect run=RUN images=PICTURES out=x.jpg", 2, "must name a .csv"),
    "detect, no such score": ("detect run=RUN images=PICTURES score=magic", 2, "Could not find 'score/magic'"),
    "detect, a score for others": ("detect run=RUN images=PICTURES score=ladder_llr", 2, "use a ladder"),
    "detect, a wrong alpha": ("detect run=RUN images=PICTURES alpha=1.5", 2, "alpha must lie between 0 and 1"),
    "detect, too low an alpha": ("detect run=RUN images=PICTURES alpha=0.01", 2, "would flag nothing: 50 calibration"),
    "detect, no such truth": ("detect run=RUN images=PICTURES truth=nowhere", 3, "nowhere cannot be read"),
    "detect, images gone": ("detect run=FILES images=PICTURES data.root=nowhere alpha=0.4", 3, "does not exist"),
    "report, no runs": ("report", 2, "runs= must be given: a run folder, a folder of runs, or a list of such."),
    "report, latest": ("report runs=latest", 3, "latest"),
    "report, a wrong mode": ("report runs=RUN mode=up", 2, "mode must be min or max"),
    "report, a wrong metric": ("report runs=RUN metric=val/none out=here", 2, "no finished run has metric=val/none"),
    "report, a picture": ("report runs=RUN out=x.jpg", 2, "out=x.jpg is the name of a file, and a .html or a folder"),
    "scaling, one size": ("scaling data.image_size=[32]", 2, "data.image_size"),
    "scaling, no device": ("scaling device=magic", 2, "device=magic"),
    "scaling, a picture": ("scaling out=x.jpg", 2, "out=x.jpg is the name of a file, and a folder"),
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, one on images of a folder that is gone, and pictures."""
    root = tmp_path_factory.mktemp("places")
    run = trained_run(root / "run")
    pictures = save_pictures(run, root / "pictures")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train(compose("train", [*FOLDER, f"data.root={pictures}", f"folder={root / 'files'}"]))
    return {"RUN": run, "FILES": root / "files", "PICTURES": pictures / "normal"}


def contents(*roots: Path) -> dict[Path, bytes | None]:
    """Every folder and every file with what is in it, but for the lock, which names the last process that looked."""
    found = [path for root in roots for path in root.rglob("*") if path.name != LOCK]
    return {path: None if path.is_dir() else path.read_bytes() for path in found}


def filled(line: str, places: dict[str, Path]) -> list[str]:
    for name, path in places.items():
        line = line.replace(name, str(path))
    return line.split()


@pytest.mark.parametrize("name", FAULTS)
def test_a_command_that_fails_has_written_nothing(  # noqa: PLR0917
    name: str,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    line, code, sentence = FAULTS[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    monkeypatch.chdir(tmp_path)
    command, *arguments = filled(line, places)
    main = importlib.import_module(f"vae_lab.{command}").main
    before = contents(tmp_path, places["RUN"].parent)
    assert invoke(main, command, *arguments, monkeypatch=monkeypatch) == code
    printed = "".join(capfd.readouterr()) or caplog.text
    assert sentence in printed
    assert "Traceback" not in printed
    assert contents(tmp_path, places["RUN"].parent) == before

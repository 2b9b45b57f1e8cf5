"""A command that fails has written nothing, and says in one sentence why."""

import importlib
from pathlib import Path

import pytest
from detecting import save_pictures
from hydra import compose, initialize_config_dir
from invoking import invoke

from vae_lab.system.config_dir import CONF
from vae_lab.system.locks import LOCK
from vae_lab.training.run import train_run

FOLDER = [
    "data=folder", "data.image_size=16", "data.channels=1", "data.batch_size=4", "model=mlp", "model.encoder.width=16",
    "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.precision=32-true", "logger=none",
]  # fmt: skip
TABLE = """
2 | train model.nlatent=0 | model.nlatent must be a whole number
2 | train experiment=none | Could not find 'experiment/none'
2 | train data=synthetic trainer.logger=true | trainer.logger: choose
3 | train data=folder data.root=nowhere | nowhere does not exist
3 | train data=folder | data.root=
3 | train data=folder data.root=damaged | damaged
2 | train hydra.run.dir=new/run model.nlatent=0 | model.nlatent
2 | train hydra.run.dir=empty model.nlatent=0 | model.nlatent
2 | train data=synthetic hydra.run.dir=RUN | already holds a run
3 | train data=synthetic resume=latest | there is no checkpoint
2 | train data=synthetic logger=wandb logger.wandb.mode=maybe | logger.wandb.mode must be one of
2 | tune search.ntrials=0 | search.ntrials must be a whole number
2 | tune folder=elsewhere | a search names its folders itself
2 | tune search=none | Could not find 'search/none'
2 | tune search.metrics={val/neg_elbo:up} | must be minimize or maximize
2 | evaluate | evaluate needs either run=, a run folder, or both images= and against=
2 | evaluate images=FILES | or both images= and against=
2 | evaluate run=RUN images=FILES against=FILES | or both images= and against=
3 | evaluate images=nowhere against=nowhere out=here | nowhere does not exist
3 | evaluate run=latest | there is no checkpoint at
3 | evaluate run=latest out=here | there is no checkpoint at
3 | evaluate run=RUN/checkpoints/none.ckpt | none.ckpt; name a finished run with
3 | evaluate run=RUN/summary.json | is not a vae_lab checkpoint
2 | evaluate run=RUN checkpoint=worst | checkpoint must be one of best, last
2 | evaluate run=RUN split=all | split must be one of
2 | evaluate run=RUN nsamples=0 out=here | nsamples must be a whole number
3 | evaluate run=FILES data.root=nowhere out=here | nowhere does not exist
2 | evaluate run=RUN out=x.jpg | out=x.jpg is the name of a file; name a folder
2 | evaluate run=RUN out=x.html | out=x.html is the name of a file; name a folder
2 | evaluate run=RUN nll_images=2 out=here | at least 4 images of each
2 | evaluate run=RUN features=magic out=here | features must be one of
2 | generate | run= must be given: a run folder.
3 | generate run=latest | there is no checkpoint at
2 | generate run=RUN n=0 | n must be a whole number
2 | generate run=RUN class=3 | is unconditional
2 | generate run=RUN sampler=magic | sampler must be one of prior, gmm, flow
2 | generate run=RUN temperature=0 | temperature must be a finite number above 0
2 | generate run=RUN temperature=cold | temperature must be a finite number above 0
3 | generate run=FILES sampler=gmm data.root=nowhere | nowhere does not exist
2 | generate run=RUN out=x.jpg | out=x.jpg is the name of a file; name a .png or a folder
2 | generate run=RUN out=x.csv | out=x.csv is the name of a file; name a .png or a folder
2 | generate run=RUN out=RUN/summary.json | out=
2 | detect | run= and images= must be given; --help describes
2 | detect run=RUN | images= must be given: a folder, a file, or several
3 | detect run=latest images=PICTURES | there is no checkpoint at
3 | detect run=RUN images=nowhere | nowhere cannot be read
2 | detect run=RUN images=PICTURES out=x.jpg | must name a .csv
2 | detect run=RUN images=PICTURES score=magic | Could not find 'score/magic'
2 | detect run=RUN images=PICTURES score=ladder_llr | use a ladder
2 | detect run=RUN images=PICTURES alpha=1.5 | alpha must lie in (0, 1)
2 | detect run=RUN images=PICTURES alpha=0.01 | would flag nothing: 50 calibration
3 | detect run=RUN images=PICTURES truth=nowhere | nowhere cannot be read
3 | detect run=FILES images=PICTURES data.root=nowhere alpha=0.4 | does not exist
2 | report | runs= must be given: a run folder, a folder of runs, or a list of these.
3 | report runs=latest | latest
2 | report runs=RUN mode=up | mode must be one of min, max
2 | report runs=RUN metric=val/none out=here | no completed run has metric=val/none
2 | report runs=RUN out=x.jpg | out=x.jpg is the name of a file; name a .html or a folder
2 | profile data.image_size=[32] | data.image_size
2 | profile device=magic | device=magic
2 | profile out=x.jpg | out=x.jpg is the name of a file; name a folder
"""
FAULTS = [tuple(row.split(" | ")) for row in TABLE.strip().splitlines()]
"""(exit code, command line, what is said)"""


@pytest.fixture(scope="module")
def places(blobs_run: Path) -> dict[str, Path]:
    """A run, one on images of a folder that is gone, and pictures."""
    run, root = blobs_run, blobs_run.parent
    pictures = save_pictures(run, root / "pictures")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train_run(compose("train", [*FOLDER, f"data.root={pictures}", f"folder={root / 'files'}"]))
    return {"RUN": run, "FILES": root / "files", "PICTURES": pictures / "normal"}


def contents(*roots: Path) -> dict[Path, bytes | None]:
    """Every folder and every file with what is in it, but for the lock, which names the last process that looked."""
    found = [path for root in roots for path in root.rglob("*") if path.name != LOCK]
    return {path: None if path.is_dir() else path.read_bytes() for path in found}


def filled(line: str, places: dict[str, Path]) -> list[str]:
    for name, path in places.items():
        line = line.replace(name, str(path))
    return line.split()


@pytest.mark.parametrize(("code", "line", "sentence"), FAULTS, ids=[line for _, line, _ in FAULTS])
def test_a_command_that_fails_has_written_nothing(  # noqa: PLR0917
    code: str,
    line: str,
    sentence: str,
    places: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    monkeypatch.chdir(tmp_path)
    command, *arguments = filled(line, places)
    main = importlib.import_module(f"vae_lab.{command}").main
    before = contents(tmp_path, places["RUN"].parent)
    assert invoke(main, command, *arguments, monkeypatch=monkeypatch) == int(code)
    printed = "".join(capfd.readouterr()) or caplog.text
    assert sentence in printed
    assert "Traceback" not in printed
    assert contents(tmp_path, places["RUN"].parent) == before

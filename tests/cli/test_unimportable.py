"""A class that a setting names and that cannot be imported: one sentence, and exit code 2."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoking import invoke

from vae_lab.train import main as train_main

TINY = [
    "data=synthetic",
    "model=mlp",
    "trainer.max_steps=4",
    "trainer.val_check_interval=4",
    "trainer.precision=32-true",
]
UNIMPORTABLE = {
    "model.encoder._target_=nolab.Net": "model.encoder: nolab.Net cannot be imported (No module named 'nolab'); install"
    " nolab, or add its folder to PYTHONPATH.",
    "model.encoder._target_=otherlab.Nothing": "model.encoder: otherlab.Nothing cannot be imported (otherlab has no"
    " Nothing); name a class that exists.",
    "model.encoder._target_=otherlab.nothing.Net": "model.encoder: otherlab.nothing.Net cannot be imported",
    "model.encoder._target_=broken.needs.Net": "model.encoder: broken.needs.Net cannot be imported (No module named"
    " 'nodependency'); install nodependency, or add its folder to PYTHONPATH.",
    "model.encoder._target_=broken.typo.Net": "model.encoder: broken.typo.Net cannot be imported (SyntaxError: invalid"
    " syntax (typo.py, line 1)); HYDRA_FULL_ERROR=1 shows the traceback.",
    "optimizer._target_=torch.optim.Nothing": "optimizer: torch.optim.Nothing cannot be imported",
    "data._target_=otherlab.Nothing": "data: otherlab.Nothing cannot be imported (otherlab has no Nothing)",
    "callbacks.gallery._target_=otherlab.Nothing": "callbacks.gallery: otherlab.Nothing cannot be imported",
    "objective._target_=otherlab.Nothing": "objective: otherlab.Nothing cannot be imported",
    "schedule._target_=otherlab.Nothing": "schedule: otherlab.Nothing cannot be imported",
}


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a module that needs what is not there, and one that is no Python."""
    package = tmp_path / "lib" / "broken"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("needs", "import nodependency"), ("typo", "x = = 1")):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "broken"]:
        del sys.modules[name]


@pytest.mark.parametrize("setting", UNIMPORTABLE)
@pytest.mark.usefixtures("broken")
def test_a_class_that_cannot_be_imported_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], setting: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(train_main, "train", *TINY, "logger=none", "threads=1", setting, monkeypatch=monkeypatch) == 2
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    (line,) = [line for line in printed.out.splitlines() if "cannot be imported" in line]
    found = line.replace("task.schedule", "schedule").replace("task.objective", "objective")
    assert UNIMPORTABLE[setting] in found


def test_a_trial_that_failed_for_want_of_a_class_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    swept = "data._target_=vae_lab.data.synthetic.SyntheticBlobs,otherlab.Nothing"
    arguments = ["-m", *TINY, "logger=none", "threads=1", "group=g", swept]
    assert invoke(train_main, "train", *arguments, monkeypatch=monkeypatch) == 7
    reasons = [json.loads(path.read_text()).get("reason") for path in Path("outputs/sweeps/g").glob("*/summary.json")]
    sentence = "data: otherlab.Nothing cannot be imported (otherlab has no Nothing); name a class that exists."
    assert sorted(filter(None, reasons)) == [sentence]

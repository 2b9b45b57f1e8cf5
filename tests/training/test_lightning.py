"""Every argument, callback and logger of Lightning does here what it is for, or is refused: docs/lightning.md."""

import inspect
import re
from pathlib import Path

import lightning_arguments
import lightning_callbacks
import pytest
import torch
import yaml
from lightning import Callback, Trainer
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.callbacks import LambdaCallback
from lightning_rows import Check, Row

from vae_lab.errors import exit_code
from vae_lab.system.config_dir import CONF
from vae_lab.training.callbacks.idle import HOOKS, skip_idle_hooks

PAGE = Path(__file__).parents[2] / "docs" / "lightning.md"
COLUMNS = ("one", "several")
WORKS: dict[str, Check] = lightning_arguments.WORKS | lightning_callbacks.WORKS
WITHOUT_A_GPU = "accelerator=gpu, without one"


def cells() -> list[tuple[str, str, str]]:
    """The page's rows: name, column and cell."""
    found = re.findall(r"^\| (`.+?`.*?) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    return [
        (name.replace("`", ""), column, one if column == "one" or several == "the same" else several)
        for name, one, several in found
        for column in COLUMNS
    ]


CELLS = cells()
ALIKE = {(name, "several") for name, column, cell in CELLS if column == "one" and (name, "several", cell) in CELLS}
"""Cells of tasks with several optimizers that say what the cell beside them says."""
NAMES = {name for name, _, _ in CELLS}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param(name, column, marks=[pytest.mark.slow] if (name, column) in ALIKE else [])
        for name, column, cell in CELLS
        if cell.startswith("works")
    ],
)
def test_a_row_that_works_is_in_the_numbers(name: str, column: str, tmp_path: Path) -> None:
    WORKS[name](Row(column, tmp_path))


@pytest.mark.parametrize(("name", "column", "cell"), [cell for cell in CELLS if cell[2].startswith("refused")])
def test_a_row_that_is_refused_says_so_at_the_start(name: str, column: str, cell: str, tmp_path: Path) -> None:
    if name == WITHOUT_A_GPU and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    sentence = re.escape(cell.removeprefix("refused: ").strip("`"))
    row = Row(column, tmp_path)
    makers = lightning_callbacks.REFUSED.get(name, list)
    for settings in lightning_arguments.REFUSED.get(name, [{}]):
        with pytest.raises(ValueError, match=sentence) as caught:
            row.run(settings, *makers())
        assert exit_code(caught.value) == 2
        assert "\n" not in str(caught.value).strip()
    assert not list(tmp_path.rglob("summary.json")), "refused before anything is written"


def test_the_page_has_every_row_and_no_other() -> None:
    tested = {*WORKS, *lightning_arguments.REFUSED, *lightning_callbacks.REFUSED}
    assert tested == NAMES
    assert all(cell.startswith(("works", "refused: ")) for _, _, cell in CELLS)


def test_the_page_has_every_argument_callback_and_logger_of_lightning() -> None:
    arguments = set(inspect.signature(Trainer).parameters)
    assert arguments == {name for name in NAMES if name in arguments} | {"barebones"}
    heads = {re.split("[,=]", name)[0] for name in NAMES}
    assert set(callbacks.__all__) <= heads
    assert set(loggers.__all__) <= heads


def test_the_config_has_the_arguments_of_the_trainer_and_no_other() -> None:
    ours = yaml.safe_load((CONF / "trainer" / "default.yaml").read_text())
    assert set(ours) - {"_target_", "_partial_"} == set(inspect.signature(Trainer).parameters)


def test_hooks_that_do_nothing_are_passed_over_and_others_are_not() -> None:
    class Counts(Callback):
        def on_after_backward(self, *_: object) -> None:
            pass

    own, given, none = Counts(), LambdaCallback(on_before_zero_grad=lambda *_: None), Callback()
    skip_idle_hooks([own, given, none])
    kept = [[name for name in HOOKS if callable(getattr(one, name))] for one in (own, given, none)]
    assert kept == [["on_after_backward"], ["on_before_zero_grad"], []]

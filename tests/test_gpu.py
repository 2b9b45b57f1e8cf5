"""What `make gpu` checks: on a GPU where there is one, and as far as it goes on a processor."""

import json
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from benchmarks import gpu
from benchmarks.gpu_checks import CHECKS, PARTS, NoWaiting, check_resume, difference, trained, waited

SMALL = ("data=synthetic", "data.nimages=256", "data.image_size=8", "model=mlp", "trainer.max_steps=24")
NAMES = ("mlp", "vamp", "logistic_mixture", "sigma_vae", "free_bits", "dreg", "warmup", "adamw", "clipped")
CASES = {name: PARTS[name] for name in NAMES} | {"augmented": ("data.augment.flip=true", "data.augment.shift=2")}


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No checks of shapes, which torch.compile cannot follow."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.gpu
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("default")  # nobody knows what a GPU's libraries warn of
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_gpu(name: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    found = CHECKS[name]("cuda", tmp_path)
    if isinstance(found.get("skipped"), str):
        pytest.skip(found["skipped"])
    assert found


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_no_number_is_looked_at_on_a_step_that_is_not_logged(settings: tuple[str, ...], tmp_path: Path) -> None:
    assert waited("cpu", tmp_path, *SMALL, *settings) > 10


class Looks(Callback):
    """Waits for the device at each batch, as a progress bar may."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object) -> None:
        float(outputs["loss"])  # pyright: ignore[reportIndexIssue]


def test_a_callback_that_looks_at_each_loss_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="waits for the device"):
        trained("cpu", tmp_path, *SMALL, "trainer.log_every_n_steps=10", watchers=[NoWaiting(), Looks()])


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        ({"a": [torch.zeros(2), 1]}, {"a": [torch.zeros(2), 1]}, None),
        ({"a": [torch.zeros(2), 1]}, {"a": [torch.tensor([0.0, 1e-9]), 1]}, "a.0."),
        ({"a": [torch.zeros(2), 1]}, {"a": [torch.zeros(2), 2]}, "a.1."),
        ({"a": []}, {"a": [1]}, "a."),
    ],
)
def test_a_difference_is_found(first: object, second: object, where: str | None) -> None:
    assert difference(first, second) == where


def test_resume_is_checked_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_checks.RUN", (*SMALL[:-1], "logger=none", "trainer.enable_progress_bar=false"))
    assert check_resume("cpu", tmp_path) == {"steps": [5, 10]}
    assert not torch.are_deterministic_algorithms_enabled()


def report(folder: Path) -> dict[str, dict[str, object]]:
    return json.loads((folder / "gpu.json").read_text())["parts"]


def test_each_part_is_written_down_and_one_that_fails_keeps_no_other_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(device: str, folder: Path) -> gpu.Facts:
        raise AssertionError("it does not hold")

    def lack(device: str, folder: Path) -> gpu.Facts:
        import no_such_package  # pyright: ignore[reportMissingImports]

        return {"there": no_such_package}

    parts = {"fails": gpu.Part(fail, 1), "lacks": gpu.Part(lack, 1), "machine": gpu.PARTS["machine"]}
    monkeypatch.setattr(gpu, "PARTS", parts)
    assert gpu.main(["device=cpu", f"out={tmp_path}"]) == 1
    seen = report(tmp_path)
    assert seen["fails"]["failed"] == "AssertionError: it does not hold"
    assert str(seen["lacks"]["skipped"]).startswith("no_such_package is not installed")
    assert seen["machine"]["torch"] == torch.__version__
    assert "1 parts passed, skipped ['lacks'], failed ['fails']" in capsys.readouterr().out


def test_the_gain_of_compiling_is_measured_against_the_plain_loop_of_the_same_turns() -> None:
    def speed(ratio: float) -> gpu.Facts:
        return {"passed": True, **{name: {"ratios": {"train / plain loop": ratio}} for name in gpu.PRECISIONS}}

    seen = {"speed_32": speed(1.05), "speed_32_compiled": speed(0.7), "speed_256": speed(1.0)}
    assert gpu.gains(seen) == {"speed_32_compiled": {"bf16-mixed": 1.5, "32-true": 1.5}}
    assert gpu.gains(seen | {"speed_32_compiled": {"skipped": "no time"}}) == {}


def test_a_part_for_which_there_is_no_time_is_skipped() -> None:
    assert gpu.outcome(gpu.PARTS["commands"], "cuda", 3.0) == {"skipped": "40 s are needed, and 3 s are left"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devise=cpu"], "devise: there are device, limit, out, only."),
        (["device=cpu", "only=comands"], "only=comands: there are machine, commands, "),
        pytest.param(
            [],
            "there is no GPU that torch can use; device=cpu tries the script without one.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_wrong_arguments_are_told_in_a_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("default")  # torch.compile warns of gradients that it reads
def test_the_script_runs_without_a_gpu(tmp_path: Path) -> None:
    assert gpu.main(["device=cpu", f"out={tmp_path}"]) == 0
    seen = report(tmp_path)
    assert list(seen) == list(gpu.PARTS)
    skipped = [name for name, facts in seen.items() if not facts.get("passed")]
    assert skipped == ["speed_32_compiled", "speed_256_compiled"]

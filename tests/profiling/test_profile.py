"""What networks cost: exponents, counts, memory, and the command that tells them."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from invoking import invoke, vae_lab
from omegaconf import DictConfig

from vae_lab.profile import lists, main
from vae_lab.profiling.counting import LiveBytes, count_parameters, multiplications, predicted_peaks
from vae_lab.profiling.peak_memory import footprint
from vae_lab.profiling.power_law import fit_power_law
from vae_lab.profiling.run import largest_that_fits, limits
from vae_lab.profiling.settings import read_memory, read_sizes
from vae_lab.profiling.workload import Setting
from vae_lab.system.config_dir import CONF

SIZES = [32, 64, 128, 256]


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("profile", ["device=cpu", *overrides])


def maker(*overrides: str) -> Callable[[int, int], Setting]:
    return read_sizes(config(*overrides)).make


@pytest.mark.parametrize("exponent", [0.0, 0.4, 2.0, 3.5])
def test_the_exponent_of_a_power_law_is_found(exponent: float) -> None:
    costs = 7 * torch.tensor(SIZES, dtype=torch.float64) ** exponent
    for repetitions in (1, 3):
        law = fit_power_law(SIZES, costs.expand(repetitions, -1))
        assert law.exponent == pytest.approx(exponent, abs=1e-9)
        assert law.high - law.low == pytest.approx(0, abs=1e-6)
        assert (law.constant, law.last, law.misfit) == pytest.approx((7, exponent, 0), abs=1e-8)
        assert law.at(100.0) == pytest.approx(7 * 100**exponent)


@pytest.mark.parametrize("repetitions", [1, 5])
def test_the_interval_covers_the_exponent_as_often_as_it_says(repetitions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.tensor(SIZES, dtype=torch.float64).log() * 2
    covered = 0
    for _ in range(1000):
        noise = 0.1 * torch.randn(repetitions, len(SIZES), generator=generator, dtype=torch.float64)
        law = fit_power_law(SIZES, (line + noise).exp())
        covered += law.low <= 2 <= law.high
    assert 930 <= covered <= 970  # 950 with a standard deviation of 7


def test_a_mood_that_slows_all_sizes_of_a_turn_changes_nothing() -> None:
    costs = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    moods = torch.tensor([[1.0], [3.0], [0.5], [10.0]], dtype=torch.float64)
    assert fit_power_law(SIZES, costs)[:3] == pytest.approx(fit_power_law(SIZES, costs * moods)[:3])


def test_two_sizes_measured_once_have_no_interval() -> None:
    law = fit_power_law([32, 64], torch.tensor([[1.0, 4.0]], dtype=torch.float64))
    assert law.exponent == pytest.approx(2)
    assert math.isnan(law.low)
    assert math.isnan(law.high)


@pytest.mark.parametrize(("sizes", "costs"), [([32], [1.0]), ([32, 32], [1.0, 1.0]), ([32, 64], [1.0, 0.0])])
def test_what_has_no_exponent_is_refused(sizes: list[int], costs: list[float]) -> None:
    with pytest.raises(ValueError, match="needs"):
        fit_power_law(sizes, torch.tensor([costs], dtype=torch.float64))


def sides(size: int) -> tuple[int, int, int]:
    """The sides after the seed network's three convolutions."""
    first = size // 2 + 1
    second = first // 2 + 1
    return first, second, second + 1


@pytest.mark.parametrize("size", SIZES)
def test_the_seed_networks_costs_are_those_worked_out_by_hand(size: int) -> None:
    setting = maker()(size, 5)
    a, b, c = sides(size)
    flat = 64 * c * c
    linear = flat * 16 + 16 + 8 * flat + flat
    kernels = 2 * (3 * 64 * 16 + 2 * 64 * 64 * 16) + 64 * 5 + 3
    weight = count_parameters(setting)
    assert weight.parameters == linear + kernels
    assert weight.linear_share == pytest.approx(linear / (linear + kernels))
    encoder = 64 * 16 * (3 * a * a + 64 * b * b + 64 * c * c) + flat * 16
    decoder = 8 * flat + 64 * 16 * (64 * c * c + 64 * b * b + 3 * a * a)
    counts = multiplications(setting)
    assert counts["generation"] == decoder
    assert counts["inference"] == encoder + decoder
    gradients = 2 * (encoder + decoder) - 64 * 16 * 3 * a * a  # but for the image, which needs none
    assert counts["training"] == encoder + decoder + gradients


@pytest.mark.parametrize(("model", "low", "high"), [("conv", 1.99, 2.0), ("resnet_fast", 0.0, 0.2)])
def test_far_off_weights_grow_with_the_square_of_the_side_or_hardly_at_all(model: str, low: float, high: float) -> None:
    make = maker(f"model={model}")
    far = limits(make, SIZES[-1])
    assert low <= far["parameters"] <= high
    assert far["multiplications generation"] == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("model", ["resnet", "resnet_fast"])
def test_a_doubling_of_the_side_adds_the_same_weights_to_a_residual_network(model: str) -> None:
    make = maker(f"model={model}")
    counts = [count_parameters(make(size, 1)).parameters for size in SIZES]
    assert len({after - before for before, after in pairwise(counts)}) == 1
    assert fit_power_law(SIZES, torch.tensor([counts], dtype=torch.float64)).exponent < 0.5


def test_bytes_are_counted_while_tensors_live() -> None:
    with LiveBytes() as counter:
        a = torch.zeros(1000)
        b = a + 1
        view = b[::2]
        b += 1
        assert counter.live == 8000
        del b
        assert counter.live == 8000  # the view keeps it
        del view
        assert counter.live == 4000
    assert counter.peak == 8000


def test_predicted_memory_is_that_of_every_tensor() -> None:
    make = maker()
    setting = make(64, 1)
    weights = 4 * count_parameters(setting).parameters
    training, generation = (predicted_peaks(setting)[name] for name in ("training", "generation"))
    assert generation > weights
    assert training > 4 * weights  # gradients and two moments
    (small, _), (large, _) = (predicted_peaks(make(64, batch)).values() for batch in (64, 128))
    assert 1.9 < large / small < 2
    assert (
        predicted_peaks(setting._replace(precision="bf16-mixed", batch_size=64))["training"]
        < predicted_peaks(make(64, 64))["training"]
    )


def test_a_conditional_network_costs_what_its_wider_inputs_do() -> None:
    plain, conditional = maker()(32, 2), maker("model.nclasses=10")(32, 2)
    a, _, c = sides(32)
    counts = [multiplications(setting) for setting in (plain, conditional)]
    more = {name: counts[1][name] - counts[0][name] for name in counts[0]}
    assert more["generation"] == 10 * 64 * c * c
    assert more["inference"] == 10 * 64 * 16 * a * a + more["generation"]
    assert more["training"] > more["inference"]
    assert predicted_peaks(conditional)["training"] > predicted_peaks(plain)["training"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("model", ["conv", pytest.param("resnet_fast", marks=pytest.mark.slow)])
def test_predicted_memory_is_the_measured_within_15_percent(model: str) -> None:
    setting = maker(f"model={model}")(128, 8)
    measured, predicted = footprint(setting, maker(f"model={model}")(32, 2)), predicted_peaks(setting)
    assert measured["process"] > 2**26
    for name, size in predicted.items():
        assert size / measured[name] == pytest.approx(1, abs=0.15), name


@pytest.mark.slow
def test_the_largest_size_that_fits_is_the_largest() -> None:
    make = maker("model.encoder.widths=[4,4,4]")
    room = predicted_peaks(make(96, 4))["training"] + 1000.0
    found = largest_that_fits(make, 4, room)
    assert found["training"] == 96
    assert found["generation"] is not None
    assert found["generation"] >= 128
    assert predicted_peaks(make(found["generation"], 4))["generation"] <= room
    assert largest_that_fits(make, 4, 1000.0) == {"training": None, "generation": None}
    patches = maker("model=resnet_fast", "model.encoder.smallest=8")  # no image under 64 pixels has two such
    assert largest_that_fits(patches, 1, 2.0**25)["training"] is not None


@pytest.mark.parametrize(("text", "size"), [("8GiB", 2**33), ("500 MiB", 500 * 2**20), (1000, 1000), ("1.5KiB", 1536)])
def test_memory_is_read_in_the_usual_units(text: str | int, size: int) -> None:
    assert read_memory(text, "cpu") == size


def test_without_a_number_memory_is_this_machines() -> None:
    assert 2**28 < read_memory(None, "cpu") < 2**50


def test_sizes_with_commas_are_a_list_and_no_sweep() -> None:
    assert lists(["model=conv", "data.image_size=32,64"]) == ["model=conv", "data.image_size=[32,64]"]
    for line in (["data.image_size=[32,64]"], ["data.image_size=32"], ["-m", "data.image_size=32,64"], ["out=a,b"]):
        assert lists(line) == line


TINY = (
    "model.encoder.widths=[4,4,4]",
    "max_seconds=1",
    "nrepeats=3",
    "pixels=2048",
    "memory=1GiB",
    "timed_from=16",
    "fits_batch=512",
)


@pytest.mark.slow
def test_the_command_writes_numbers_and_a_plot(tmp_path: Path) -> None:
    done = vae_lab("profile", "model=conv", "data.image_size=16,32", "out=here", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "in 1.0 GiB, with 20% kept free" in done.stdout
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["profile.json", "profile.png"]
    assert (tmp_path / "here" / "profile.png").stat().st_size > 20_000
    result: dict[str, Any] = json.loads((tmp_path / "here" / "profile.json").read_text())
    assert list(result["sizes"]) == ["16", "32"]
    assert [row["batch"] for row in result["sizes"].values()] == [8, 2]
    for size, row in result["sizes"].items():
        assert row["parameters"] == count_parameters(maker(TINY[0])(int(size), 1)).parameters
        fastest = {name: min(taken[size]) for name, taken in result["timings"].items()}
        assert fastest["training"] > fastest["generation"] > 0, "medians of three may be the other way round in company"
        assert min(row["seconds"].values()) > 0
        assert row["memory"]["training"]["measured"] > 0
        assert len(result["timings"]["training"][size]) == 3
    for name, law in result["exponents"].items():
        assert law["low"] is None if not name.startswith("seconds") else law["low"] <= law["exponent"] <= law["high"]
    assert result["fits"]["generation"] >= result["fits"]["training"] > 32
    assert result["config"]["model"]["encoder"]["widths"] == [4, 4, 4]


BAD = {
    "one size": (("data.image_size=[32]",), 2, "needs two or more different whole numbers"),
    "one size, no list": (("data.image_size=32",), 2, "needs two or more different whole numbers"),
    "a size twice": (("data.image_size=[32,32]",), 2, "needs two or more different whole numbers"),
    "half a pixel": (("data.image_size=[32,64.5]",), 2, "needs two or more different whole numbers"),
    "below 0": (("data.image_size=[-32,64]",), 2, "data.image_size must be a whole number of at least 1, not -32"),
    "an odd size": (("model=resnet", "data.image_size=[32,65]"), 2, "data.image_size=65 cannot be halved"),
    "no images": (("batch_size=0",), 2, "batch_size must be"),
    "an unknown unit": (("memory=8Gigs",), 2, "memory=8Gigs must be a number of bytes"),
    "no memory": (("memory=0",), 2, "memory=0 must be"),
    "too little memory": (("memory=1MiB",), 6, "which does not fit into memory; reduce batch_size"),
    "an unknown precision": (("precision=16",), 2, "precision must be one of 32-true, bf16-mixed"),
    "an unknown device": (("device=tpu",), 2, "device=tpu cannot be used here"),
    "all memory kept free": (("headroom=1",), 2, "headroom must lie in [0, 1), not 1"),
    "a misspelt key": (("data.imagesize=[32,64]",), 2, "did you mean data.image_size?"),
    "a file in the way": (("out=file/here",), 5, "file/here cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_sentence_and_its_code(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments, code, sentence = BAD[name]
    (tmp_path / "file").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    assert invoke(main, "profile", *arguments, monkeypatch=monkeypatch) == code
    printed = "".join(capfd.readouterr()) + caplog.text
    assert sentence in printed
    assert "Traceback" not in printed


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys\nimport vae_lab.profile\nprint('torch' in sys.modules)"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


def test_one_slow_repetition_moves_no_line() -> None:
    costs = torch.tensor(SIZES, dtype=torch.float64).square().expand(5, -1).clone()
    costs[2] *= 100
    assert fit_power_law(SIZES, costs).at(64.0) == pytest.approx(64**2)

"""Every command of README.md and docs/ does what the page says: it is typed here in short, or composed."""

import ast
import importlib
import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from documented import DOCUMENTED, PAGES, ROOT, Documented, python_blocks
from invoking import invoke
from PIL import Image

ELSEWHERE = {
    'eval "$(': "tests/cli/test_hydra.py types it",
    "data=m<Tab>": "tests/cli/test_hydra.py completes it",
    "examples/mylab/README.md": "tests/test_example.py types it",
    "run=run": "tests/test_example.py types it, without trust and with it",
}
"""Parts of commands, or their page: who runs those with such a part."""
COMPOSED = {
    "torchrun": "cluster",
    "srun": "cluster",
    "trainer.devices=2": "two processes, in tests/training/test_devices.py",
    "launcher=": "processes of their own, in tests/sweeps/test_launchers.py and tests/cluster",
    "experiment=": "long; tests/training/test_configs.py trains each experiment",
    "data.image_size=128": "long",
    "samplers=[gmm,flow]": "fits a flow, as tests/evaluation/test_evaluate.py does",
    "model=mixer,conv": "tests/test_example.py trains a sweep of that package",
    "schedule=cosine": "tests/training/test_configs.py trains with each choice",
    "vae_lab.profile": "a process for each size, in tests/profiling/test_profile.py",
    "data.download=true": "network",
    "vae_lab.interpolate": "two pictures, in tests/latents/test_picture_files.py",
    "direction=": "a CSV of labels, in tests/latents/test_picture_files.py",
    "labels=labels.csv": "a CSV of labels, in tests/latents/test_map.py",
    "out=latents.parquet": "optional package, in tests/latents/test_encode.py",
    "to=hub": "optional packages, in tests/exporting/test_hub.py",
    "out=page.html": "optional packages and npm, in tests/exporting/test_page.py",
    "to=onnx": "optional packages, in tests/exporting/test_export.py",
    "vae_lab.explore": "a server, in tests/exploring/test_explore_command.py",
    "logger=tensorboard": "optional package, in tests/training/test_loggers.py",
}
"""Parts of commands: why those with such a part are composed and not run; each of their keys has to exist."""
LONG = {
    "anomalies": "four minutes",
    "one_class": "ten runs",
    "encode": "60,000 files, and many more",
    "default_score": "trains what is missing, an hour",
    "fanout": "eight runs",
    "threads": "minutes; needs a quiet machine",
    "explore_latency": "optional packages; a server and Chromium",
    "onnx_speed": "optional packages; two minutes",
    "page_decode": "optional packages, npm and Chromium; two minutes",
    "gpu": "needs a GPU; tests/test_gpu.py runs its checks in small",
}
"""Benchmarks, which are imported here and run by hand."""
MYLAB = ROOT / "examples" / "mylab"
SMALL = ("model=mlp", "model.encoder.width=16", "model.nlatent=2", "likelihood=sigma_vae")
RUNS = {
    "run": ("data=synthetic", "data.nimages=240", *SMALL),
    "other": ("data=synthetic", "data.nimages=240", *SMALL, "seed=1"),
    "digits": ("data=digits", *SMALL, "model.nclasses=10"),
}
QUICK = {
    "threads=1": (
        "train",
        "tune",
        "generate",
        "encode",
        "reconstruct",
        "interpolate",
        "traverse",
        "map",
        "evaluate",
        "detect",
        "profile",
        "export",
        "explore",
    ),
    "trainer.max_steps=4": ("train", "tune"),
    "trainer.val_check_interval=4": ("train", "tune"),
    "logger=none": ("train", "tune"),
    "search.ntrials=1": ("tune",),
    "nll_images=4": ("evaluate",),
    "nsamples=2": ("evaluate",),
    "ngenerated=16": ("evaluate",),
    "features=vgg": ("evaluate",),
    "nreplicates=5": ("evaluate", "detect"),
    "ngroups=2": ("evaluate",),
    "nreference=20": ("evaluate",),
    "ncalibration=20": ("detect",),
    "nfit=20": ("detect",),
    "perplexity=5.0": ("map",),
    "device=cpu": ("profile",),
    "nrepeats=1": ("profile",),
    "max_seconds=0.1": ("profile",),
    "pixels=1024": ("profile",),
    "memory=1GiB": ("profile",),
}
"""Settings that make a command short, each with the commands that have it."""
REQUIRED = {
    "generate": ("run",),
    "encode": ("run", "images"),
    "reconstruct": ("run", "images"),
    "interpolate": ("run", "images"),
    "traverse": ("run", "images"),
    "map": ("run",),
    "evaluate": ("run",),
    "detect": ("run", "images"),
    "runs": ("root",),
    "export": ("run",),
    "explore": ("run",),
}
"""Settings without which a command ends; pages that name a part of a command leave them out."""
INSTEAD = "images"
"""What `evaluate` may have in place of a run."""
KEPT = ("logger", "threads")
"""Settings that a command keeps if it names them."""


def is_in(table: dict[str, str], command: Documented) -> bool:
    """Whether a table names a part of the command, or its page."""
    return any(part in command.line or part == command.page for part in table)


def key_of(word: str) -> str:
    """The key of a setting; an option has none."""
    return "" if word.startswith("-") else word.partition("=")[0].lstrip("+~")


class Place:
    """A folder to type commands in, with what a reader has: runs, pictures, MNIST and a package of his own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, name: str) -> str:
        """Train a run of four steps, once."""
        folder = self.root / name
        if not folder.exists():
            short = [setting for setting, names in QUICK.items() if "train" in names]
            with pytest.MonkeyPatch.context() as patch:
                assert typed("train", [*RUNS[name], *short, f"folder={folder}"], patch) == 0
        return str(folder)

    def copied_run(self, name: str) -> str:
        """A copy in the working directory, for what changes a run."""
        shutil.copytree(self.run(name), f"{name}-copy", dirs_exist_ok=True)
        return f"{name}-copy"

    def pictures(self, name: str = "pictures") -> str:
        """Thirty pictures in colour."""
        folder = self.root / name
        if not folder.exists():
            folder.mkdir()
            generator = np.random.default_rng(len(name))
            for i in range(30):
                pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:02}.png")
        return str(folder)

    def mnist(self) -> str:
        """Files like those of MNIST, of sixty images."""
        raw = self.root / "images" / "MNIST" / "raw"
        if not raw.exists():
            raw.mkdir(parents=True)
            generator = np.random.default_rng(0)
            for part, n in (("train", 60), ("t10k", 20)):
                head = np.array([2051, n, 28, 28], dtype=">i4").tobytes()
                images = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8).tobytes()
                labels = (np.arange(n) % 10).astype(np.uint8).tobytes()
                (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images)
                head = np.array([2049, n], dtype=">i4").tobytes()
                (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels)
        return str(raw.parents[1])


def stand_ins(command: Documented, place: Place) -> dict[str, Callable[[], str]]:
    """What stands for a placeholder, by the key before it."""
    name = "digits" if "class=" in command.line else "run"
    pictures = place.mnist if "mnist" in command.line else place.pictures
    return {
        "run": partial(place.run, name),
        "runs": partial(place.run, name),
        "root": partial(place.run, name),
        "images": place.pictures,
        "against": partial(place.pictures, "others"),
        "truth": partial(place.pictures, "anomalies"),
        "data.root": pictures,
        "resume": partial(place.copied_run, name),
        "init": partial(place.run, name),
        "model": lambda: "conv",
        "score": lambda: "neg_elbo",
        "experiment": lambda: "mnist_fast",
        "hub.push": lambda: "user/name",
    }


def filled(word: str, fillers: dict[str, Callable[[], str]]) -> str:
    """A word with real things in place of a reader's: `<…>`, nothing behind the sign, or what lies in outputs/."""
    key, sign, value = word.partition("=")
    made = key in ("run", "runs", "resume") and (value.partition("/")[0] == "outputs" or is_chosen(value))
    if not sign or not (made or "<" in value or not value):
        return word
    assert key in fillers, f"{word}: say in stand_ins() what stands for it"
    if value.startswith("["):
        return f"{key}=[{fillers[key]()},{place_of_another(fillers[key])}]"
    return f"{key}={fillers[key]()}"


def is_chosen(value: str) -> bool:
    """Whether a value of run= chooses a run of those in outputs/; tests/runs/test_choice.py types them."""
    return value == "last" or value.startswith("best:")


def place_of_another(filler: Callable[[], str]) -> str:
    """A second run, where the first is one."""
    return filler.func("other") if isinstance(filler, partial) else filler()


def shortened(command: Documented, place: Place) -> list[str]:
    """The arguments of a command, with real things in place of placeholders, as short as may be."""
    name = command.module.removeprefix("vae_lab.")
    fillers = stand_ins(command, place)
    words = [filled(word, fillers) for word in command.arguments]
    keys = {key_of(word) for word in words}
    quick = [setting for setting, names in QUICK.items() if name in names and not ({key_of(setting)} & {*KEPT} & keys)]
    if name in ("train", "tune") and not keys & {"experiment", "resume"}:
        quick += [f"~callbacks.{callback}" for callback in ("gallery", "latents")]
        quick += [] if "model" in keys else ["model=mlp", "model.encoder.width=16"]
        quick += [] if "data" in keys else ["data=synthetic"]
    if "mnist" in command.line and name in ("train", "tune"):
        quick += ["data.nval=20", "data.download=false", f"data.root={place.mnist()}"]
    if "resume" in keys:
        quick = ["trainer.max_steps=6" if setting == "trainer.max_steps=4" else setting for setting in quick]
    replaced = {key_of(setting) for setting in quick}
    words = [word for word in words if key_of(word) not in replaced]
    words += [f"{key}={fillers[key]()}" for key in required(name, keys) if key not in keys]
    return [*(words if "zip" in command.line else map(first_value, words)), *quick]


def required(name: str, keys: Iterable[str]) -> tuple[str, ...]:
    """The settings without which a command with these keys ends."""
    return () if name == "evaluate" and INSTEAD in keys else REQUIRED.get(name, ())


def first_value(word: str) -> str:
    """A swept setting with the first of its values; anything else as it is."""
    return word.partition(",")[0] if re.fullmatch(r"[\w.]+=[\w.,-]+", word) else word


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What all commands of the pages share."""
    return Place(tmp_path_factory.mktemp("documented"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the package of examples/ and a config of one's own lie."""
    (tmp_path / "mylab").symlink_to(MYLAB / "mylab")
    (tmp_path / "conf" / "callbacks").mkdir(parents=True)
    monitor = "mine:\n  _target_: lightning.pytorch.callbacks.LearningRateMonitor\n"
    (tmp_path / "conf" / "callbacks" / "mine.yaml").write_text(monitor)
    monkeypatch.syspath_prepend(MYLAB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command."""
    module = importlib.import_module(f"vae_lab.{name}")
    main = module.main if hasattr(module, "main") else importlib.import_module(f"vae_lab.{name}.__main__").main
    return invoke(main, name, *arguments, monkeypatch=monkeypatch)


VAE_LAB = [command for command in DOCUMENTED if command.module.startswith("vae_lab.")]
"""Commands of vae_lab itself."""
OTHERS = [command for command in DOCUMENTED if not command.module.startswith("vae_lab.")]
"""Targets of make, benchmarks and scripts."""


def unique(command: Documented) -> str:
    """What is special to a command: all but the settings that are replaced, and the names of placeholders."""
    name = command.module.removeprefix("vae_lab.")
    replaced = {key_of(setting) for setting in QUICK if name in QUICK[setting]}
    words = [re.sub("outputs/<.*>|<.*>", "<>", word) for word in command.arguments if key_of(word) not in replaced]
    return " ".join([name, *sorted({*words, *(f"{key}=<>" for key in required(name, map(key_of, words)))})])


NOT_ELSEWHERE = [command for command in VAE_LAB if not is_in(ELSEWHERE, command)]
LISTED = {unique(command): command for command in NOT_ELSEWHERE if is_in(COMPOSED, command)}
TYPED = {unique(command): command for command in NOT_ELSEWHERE if not is_in(COMPOSED, command)}
"""Those that are typed, each once."""


SLOW = [
    command
    for command in TYPED.values()
    if command.page != "README.md" and not is_in({"resume=": "", "zip": ""}, command)
]
"""Those of them that are composed, too, and typed by `make slow`."""


def named(commands: Iterable[Documented], slow: Sequence[Documented] = ()) -> list[object]:
    """Parameters of a test, named by page and line; those in `slow` have that mark."""
    return [
        pytest.param(one, id=f"{one.page}: {one.line}"[:120], marks=[pytest.mark.slow] if one in slow else [])
        for one in commands
    ]


@pytest.mark.parametrize("command", named(TYPED.values(), SLOW))
def test_a_command_of_the_pages_works(
    command: Documented, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = typed(command.module.removeprefix("vae_lab."), shortened(command, place), monkeypatch)
    printed = "".join(capfd.readouterr())
    assert code == 0, printed


@pytest.mark.parametrize("command", named([*LISTED.values(), *SLOW]))
def test_the_settings_of_a_command_exist(command: Documented, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word for word in shortened(command, place) if word != "-m"]
    assert typed(command.module.removeprefix("vae_lab."), [*words, "--cfg", "job"], monkeypatch) == 0


def test_make_has_the_targets_of_the_pages() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word for command in DOCUMENTED if command.words[0] == "make" for word in command.words[1:] if "=" not in word
    }
    assert named - targets == set()


def test_benchmarks_of_the_pages_exist() -> None:
    named = {command.module.removeprefix("benchmarks.") for command in DOCUMENTED if "benchmarks." in command.module}
    assert named == LONG.keys()
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in named)


@pytest.mark.slow
def test_the_scripts_of_the_pages_write_their_pictures(
    place: Place, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {word for command in DOCUMENTED for word in command.words if word.startswith("docs/scripts/")}
    assert named == {f"docs/scripts/{path.name}" for path in (ROOT / "docs" / "scripts").glob("*.py")}
    run = place.run("run")
    for script, arguments in {
        "samplers": [run, "out.png"],
        "montage": ["out.png", f"{run}/figures/samples.png", f"{run}/figures/reconstructions.png"],
    }.items():
        (here / "out.png").unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(ROOT / "docs" / "scripts" / f"{script}.py"), run_name="__main__")
        with Image.open(here / "out.png") as picture:
            assert picture.width > picture.height


@pytest.mark.parametrize(("page", "block"), python_blocks(), ids=lambda text: text[:40])
def test_the_imports_of_the_pages_exist(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            assert node.module is not None
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), page
        elif isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)


def test_extras_of_the_pages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"(?:vae_lab|'\.)\[([a-z,]+)\]'", "".join(page.read_text() for page in PAGES))
    assert {extra for names in named for extra in names.split(",")} <= extras.keys()


def test_no_reason_is_out_of_date() -> None:
    used = {part for part in (*COMPOSED, *ELSEWHERE) for command in VAE_LAB + OTHERS if is_in({part: ""}, command)}
    assert used == COMPOSED.keys() | ELSEWHERE.keys()

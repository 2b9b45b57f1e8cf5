"""Every command where a laptop is not: in containers, on clusters, in odd folders, for users without a name."""

import ast
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from sweeping import TINY

from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

ROOT = Path(__file__).parents[2]
STRANGER = 12345
"""A user id without a name; it may read everything here, and write nothing."""
AS_STRANGER = (
    "setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
ODD = "Meine Läufe (1), a=b $x 'q'"
TRAIN = ("train", *TINY, "logger=none")
EVALUATE = ("evaluate", "run={run}", "nsamples=2", "nll_images=4", "ngenerated=8", "ngroups=2", "k=2", "nreplicates=2",
            "nreference=10", "features=vgg")  # fmt: skip
DETECT = ("detect", "run={run}", "images={pictures}", "alpha=0.2", "ncalibration=8", "nfit=8", "nshown=2")
REPORT = ("report", "runs={run}")
PROFILE = ("profile", "model=mlp", "data.image_size=[8,16]", "data.channels=1", "pixels=256", "nrepeats=3",
           "max_seconds=0.1", "timed_from=8", "fits_batch=2", "memory=64MiB")  # fmt: skip
TUNE = ("tune", *TINY, "logger=none", "search.ntrials=1")
GENERATE = ("generate", "run={run}", "n=2")
ALL = (TRAIN, (*GENERATE, "out=g.png"), (*EVALUATE, "out=evaluated"), DETECT, (*REPORT, "out=report"), PROFILE, TUNE)


class Place(NamedTuple):
    """A run of somebody else, pictures, and a working folder."""

    run: Path
    pictures: Path
    cwd: Path


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and pictures of its size beside it."""
    root = tmp_path_factory.mktemp("surroundings")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        train_run(compose("train", [*TINY, "logger=none", "likelihood=sigma_vae", f"folder={root / 'run'}"]))
    (root / "pictures").mkdir()
    for i in range(4):
        Image.new("L", (16, 16), 60 * i).save(root / "pictures" / f"{i}.png")
    return root


@pytest.fixture
def place(shared_run: Path, tmp_path: Path) -> Place:
    return Place(shared_run / "run", shared_run / "pictures", tmp_path)


def commands_in(
    place: Place,
    commands: Sequence[Sequence[str]],
    environment: Mapping[str, str | None],
    *,
    before: Sequence[str] = (),
    stdin: int | None = subprocess.DEVNULL,
    preparation: Callable[[], object] | None = None,
) -> tuple[list[tuple[str, int]], str]:
    """The commands' exit codes by their names, and what they printed; None takes a variable out."""
    names = {"run": str(place.run), "pictures": str(place.pictures)}
    asked = [[words[0], *(word.format(**names) for word in words[1:])] for words in commands]
    ours = ("WANDB", "HYDRA", "VAE_LAB", "SLURM", "PYTEST", "XDG", "RANK", "WORLD", "MPLCONFIG")
    usual = {key: value for key, value in os.environ.items() if not any(word in key for word in ours)}
    usual |= {
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests/support",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "HOME": str(place.cwd),
    }
    env = {key: value for key, value in (usual | dict(environment)).items() if value is not None}
    output = place.cwd.parent / f"{place.cwd.name}.txt"
    line = [*before, sys.executable, str(ROOT / "tests" / "support" / "surrounded.py"), str(output), json.dumps(asked)]
    with output.open("wb") as file:
        subprocess.run(line, cwd=place.cwd, env=env, stdin=stdin, stdout=file, stderr=subprocess.STDOUT, timeout=600,
                       check=False, preexec_fn=preparation)  # fmt: skip
    text = output.read_text(encoding="utf-8")
    marks = [line.split() for line in text.splitlines() if line.startswith("=== ")]
    assert [mark[1] for mark in marks] == [words[0] for words in commands], text
    assert "Logging error" not in text
    return [(name, int(code)) for _, name, code in marks], text


def quiet(text: str) -> str:
    """What was printed, if it holds no traceback."""
    assert "Traceback" not in text, text
    return text


def require_stranger() -> None:
    """Skip where this user cannot become another one."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, by setpriv")
    line = [*AS_STRANGER, sys.executable, "-c", "import torch"]
    if subprocess.run(line, capture_output=True, check=False, timeout=120).returncode:
        pytest.skip("another user cannot start this Python")


@pytest.fixture
def stranger() -> Iterator[Path]:
    """A folder of the stranger's; pytest's own lie where only this user may look."""
    require_stranger()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "own"
        (folder / "tmp").mkdir(parents=True)
        for path in (folder.parent, folder, folder / "tmp"):
            os.chown(path, STRANGER, STRANGER)
        yield folder


@pytest.mark.slow
def test_a_user_without_name_or_home_and_a_run_of_somebody_else(shared_run: Path, stranger: Path) -> None:
    place = Place(shared_run / "run", shared_run / "pictures", stranger)
    before = sorted(place.run.rglob("*"))
    commands = [
        ("train", *TINY, "logger=wandb"),
        (*GENERATE, "sampler=gmm"),
        (*GENERATE, "sampler=gmm", "out=g"),
        (*GENERATE, "sampler=gmm", "out=h"),
        ("generate", "run=nowhere/Größe"),
        EVALUATE,
        (*EVALUATE, "out=evaluated"),
        DETECT,
        DETECT,
        REPORT,
        (*REPORT, "out=report"),
        TUNE,
        PROFILE,
    ]
    strange = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    bare = dict.fromkeys(("USER", "LOGNAME", "HOME", "LANG")) | {"TMPDIR": str(stranger / "tmp")}
    codes, text = commands_in(place, commands, strange | bare, before=AS_STRANGER, preparation=lambda: os.umask(0o077))
    expected = [0, 5, 0, 0, 3, 5, 0, 0, 0, 5, 0, 0, 0]
    assert [code for _, code in codes] == expected, text
    home = stranger / "tmp" / f"vae_lab-{STRANGER}"
    assert f"this user has no home folder: caches are kept in {home}; set HOME" in quiet(text)
    for where in (place.run / "generated", place.run):
        assert f"{where} cannot be written (Permission denied); name another folder with out=." in text
    assert text.count("fitting sampler=gmm") == 1
    assert text.count("scoring normal images of the run once, cached in") == 1
    assert text.index("results computed from this run are kept in") < text.index("scoring normal images")
    kept = [path.relative_to(home).parts[2] for path in home.rglob("*.pt")]
    assert kept == ["runs"] * 2
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert "nowhere/Gr\\udcc3\\udcb6" in text, "where the locale knows no umlauts"
    assert sorted(place.run.rglob("*")) == before
    assert not (place.cwd / "~").exists()
    assert list(place.cwd.glob("outputs/*/*/wandb/offline-run-*/*.wandb"))


LEFTOVERS = {
    "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train.sh", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost", "MASTER_PORT": "29533", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip


@pytest.mark.slow
def test_a_cluster_with_leftovers_in_a_folder_of_odd_letters(place: Place) -> None:
    cwd = place.cwd / ODD
    cwd.mkdir()
    shutil.copytree(place.run, cwd / "Größe (2)")
    commands = [
        ("train", *TINY, "logger=wandb", "folder=einzeln, [1] = x"),
        ("train", "-m", *TINY, "logger=none", "seed=0", 'group="lr=1e-3,b=2 (a)"'),
        ("printed", "report"),
        ("stored", "outputs/sweeps/*/*/summary.json"),
        ("generate", "run=Größe (2)", "n=2", "out=neu (3).png"),
        ("evaluate", "run=Größe (2)", *EVALUATE[2:]),
        ("detect", "run=Größe (2)", *DETECT[2:], "out=Maße=x.csv"),
        ("report", f"runs={cwd}/Größe (2)"),
        TUNE,
    ]
    odd = Place(place.run, place.pictures, cwd)
    codes, text = commands_in(
        odd, commands, LEFTOVERS | {"HOME": "/nowhere"}, stdin=None, preparation=lambda: os.close(0)
    )
    assert [code for _, code in codes] == [0] * len(commands), text
    assert "HOME=/nowhere does not exist: caches are kept in" in quiet(text)
    assert "SLURM_NTASKS=4 is ignored and this process trains alone; start it with srun to train on several." in text
    for written in ("einzeln, [1] = x/summary.json", "neu (3).png", "Größe (2)/evaluation-test.json", "Maße=x.csv"):
        assert (cwd / written).is_file(), written
    (folder,) = cwd.glob("outputs/sweeps/*")
    assert (folder / "report.html").is_file(), "by the line that was printed"
    (sync,) = (line.partition("with: ")[2] for line in text.splitlines() if "wandb sync" in line)
    (file,) = Path(shlex.split(sync)[-1]).glob("*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    logged = subprocess.run(inspect, capture_output=True, text=True, encoding="utf-8", check=True, timeout=60).stdout
    assert "val/neg_elbo" in logged, "RANK=1 is left over: Lightning would log nothing"
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in cwd.rglob("summary.json")]
    stored = [summary["command"] for summary in summaries if "command" in summary]
    printed = [line.partition(", or ")[0] for line in text.splitlines() if "python -m vae_lab." in line]
    assert (len(stored), len(printed)) == (4, 4)
    for line in stored + printed:
        for word in shlex.split(line[line.index("python -m") :])[3:]:
            OverridesParser.create().parse_override(word)


MORE = {
    "a home that is not there": {"HOME": "/nowhere"},
    "a home that is a file": {"HOME": "/dev/null"},
    "XDG folders that cannot be made": {"XDG_CACHE_HOME": "/dev/null/x", "XDG_CONFIG_HOME": "/dev/null/x"},
    "no locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "a terminal of few letters": {"PYTHONIOENCODING": "ascii"},
    "a Slurm job without a step": {key: value for key, value in LEFTOVERS.items() if key.startswith("SLURM")},
    "leftovers of torchrun": {key: value for key, value in LEFTOVERS.items() if not key.startswith("SLURM")},
    "an identifier alone": {"TORCHELASTIC_RUN_ID": "none"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_every_command_in_surroundings_of_one_kind(name: str, place: Place) -> None:
    codes, text = commands_in(place, ALL, MORE[name])
    assert codes == [(words[0], 0) for words in ALL], text
    quiet(text)


WINDOWS = "import signal, sys\nsys.modules.update(fcntl=None, resource=None)\ndel signal.SIGHUP\n"
"""What Windows lacks, taken out before anything else is imported."""


@pytest.mark.slow
def test_every_command_without_the_modules_that_windows_lacks(place: Place) -> None:
    imitation = place.cwd / "windows"
    imitation.mkdir()
    (imitation / "sitecustomize.py").write_text(WINDOWS, encoding="utf-8")
    codes, text = commands_in(place, ALL, {"PYTHONPATH": f"{imitation}:{ROOT}:{ROOT}/tests/support"})
    assert codes == [(words[0], 0) for words in ALL], text
    quiet(text)


@pytest.mark.parametrize("name", ["RANK", "SLURM_STEP_NUM_TASKS"])
def test_a_number_that_is_none_is_told_in_a_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from invoking import invoke

    from vae_lab.generate import main

    monkeypatch.setenv(name, "abc")
    assert invoke(main, "generate", "run=x", monkeypatch=monkeypatch) == 2
    assert capfd.readouterr().err.startswith(f"{name}=abc: torchrun and srun set it to a whole number; unset it")


FILES = sorted([*(ROOT / "vae_lab").rglob("*.py"), *(ROOT / "hydra_plugins").rglob("*.py")])


def unspecified(path: Path) -> list[int]:
    """Lines of a file that open text in whatever encoding the machine has."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        modes = [one.value for one in arguments if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        opens = (
            name == "open" and owner not in {"os", "Image", "archive", "zipfile"} and not any("b" in m for m in modes)
        )
        in_text = owner == "subprocess" and any(keyword.arg == "text" for keyword in node.keywords)
        if (name in {"read_text", "write_text"} and owner) or opens or in_text:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_read_and_written_in_one_encoding(path: Path) -> None:
    assert not unspecified(path), "say encoding= where text is opened"

"""What Hydra's and W&B's documentation offers: every row of docs/hydra.md, in one process but for those that say so."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from invoking import invoke
from sweeping import finish, start

from vae_lab.system.config_dir import CONF
from vae_lab.training.run import train_run

ROOT = Path(__file__).parents[2]
TINY = (
    "data=synthetic", "data.image_size=8", "data.nimages=32", "data.batch_size=4", "model=mlp", "model.encoder.width=8",
    "trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.precision=32-true", "threads=1",
    "~callbacks.latents", "~callbacks.gallery",
)  # fmt: skip
OWN = {
    "own/experiment/mine.yaml": "# @package _global_\nmodel:\n  nlatent: 3\n",
    "own/mytrain.yaml": "defaults:\n  - train\n  - _self_\nseed: 7\n",
    "own/bare.yaml": "defaults:\n  - data: synthetic\n  - _self_\nseed: 7\n",
    "whole/train.yaml": f"defaults:\n  - train_of_vae_lab\n  - _self_\nhydra:\n  searchpath: [file://{CONF}]\n",
}
"""Configs of somebody's own."""

Look = Callable[[Path, str], object]
"""Asserts what a command has left in its working directory, and printed."""


def ran(folder: Path) -> dict[str, Any]:
    """The summary of the one run below a folder."""
    (path,) = folder.rglob("summary.json")
    return json.loads(path.read_text())


def has(folder: Path, **expected: object) -> None:
    """Assert that the one run there is completed, and these settings of its config, __ for a point."""
    assert ran(folder)["status"] == "completed"
    (path,) = folder.rglob(".hydra/config.yaml")
    config = yaml.safe_load(path.read_text())
    for key, value in expected.items():
        node = config
        for name in key.split("__"):
            node = node[name]
        assert node == value


def trials(folder: Path, pattern: str, statuses: Sequence[str]) -> None:
    found = [json.loads(path.read_text())["status"] for path in sorted(folder.glob(f"{pattern}/summary.json"))]
    assert found == list(statuses)


def notes(folder: Path, *expected: str) -> None:
    assert (folder / "notes").read_text().splitlines() == list(expected)


def prints(*expected: str) -> Look:
    def look(_: Path, output: str) -> None:
        for text in expected:
            assert text in output

    return look


def logs(folder: Path, there: bool) -> None:
    has(folder)
    assert bool(list(folder.rglob("train.log"))) is there


def wandb(folder: Path, mode: str | None, where: str = "outputs/*/*/wandb") -> None:
    assert ran(folder)["wandb_mode"] == (mode or "disabled")
    assert bool(list(folder.glob(f"{where}/offline-run-*/*.wandb"))) is (mode == "offline"), [*folder.rglob("*")]


@dataclass
class Row:
    """A command line, and what comes of it; a row whose code is not 0 is refused, in the sentence of docs/hydra.md."""

    arguments: tuple[str, ...]
    look: Look = lambda folder, _: has(folder)
    code: int = 0
    command: str = "train"
    tiny: bool = True
    logger: str = "none"
    environment: dict[str, str] = field(default_factory=dict)
    process: bool = False  # launchers cannot hand on what pytest has changed in this one


def refused(*arguments: str, command: str = "train", code: int = 2, tiny: bool = False) -> Row:
    return Row(arguments, look=lambda folder, _: nothing(folder), code=code, command=command, tiny=tiny)


def shown(*arguments: str, command: str = "train", look: Look) -> Row:
    return Row(arguments, look=look, command=command, tiny=False)


def nothing(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"own", "whole"}, "no trace"


def folder_is_named(_: Path, output: str) -> None:
    config = yaml.safe_load(output)
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-\w{6}", config["folder"])
    assert config["callbacks"]["checkpoint"]["dirpath"] == f"{config['folder']}/checkpoints"
    assert "None" not in output
    assert "${" not in output


NOTING = ("+hydra.callbacks.mine._target_=noting.Noting", "+hydra.callbacks.mine.file=notes")
SEEDS = ("seed=0,1", "-m")
MARKS = {
    "launcher=joblib": pytest.mark.slow,
    "launcher=slurm_local": pytest.mark.slow,
    "hydra/sweeper=basic hydra/launcher=joblib, a job fails": pytest.mark.slow,
}

HYDRA = {
    "seed=0,1 -m": Row(SEEDS, lambda f, _: trials(f, "outputs/sweeps/seed-*/*", ["completed"] * 2)),
    "-m seed=0,1 model.nlatent=2": Row(
        ("-m", "seed=0", "model.nlatent=2"), lambda f, _: has(f / "outputs/sweeps", model__nlatent=2)
    ),
    "hydra.mode=MULTIRUN": Row(("hydra.mode=MULTIRUN",), lambda f, _: has(f / "outputs/sweeps")),
    "model.nlatent=range(2,3)": Row(
        ("-m", "model.nlatent=range(2,3)"), lambda f, _: has(f / "outputs/sweeps", model__nlatent=2)
    ),
    "likelihood=glob(mse*)": Row(("-m", "likelihood=glob(mse*)"), lambda f, _: has(f / "outputs/sweeps")),
    "optimizer.lr=interval(1e-4,1e-2)": refused("-m", "optimizer.lr=interval(1e-4,1e-2)"),
    "hydra.sweep.dir=mine": Row(("-m", "hydra.sweep.dir=mine"), lambda f, _: trials(f, "mine/*/*", ["completed"])),
    "hydra.sweep.subdir=${hydra.job.num}": refused("-m", "hydra.sweep.subdir=${hydra.job.num}"),
    "hydra.sweeper.params": Row(
        ("-m", '+hydra.sweeper.params={model.nlatent:"3"}'), lambda f, _: has(f / "outputs/sweeps", model__nlatent=3)
    ),
    "hydra/sweeper=basic": Row(
        ("hydra/sweeper=basic", *SEEDS), lambda f, _: trials(f, "outputs/sweeps/*-*-*/*/[01]", ["completed"] * 2)
    ),
    "hydra/sweeper=basic, a job fails": Row(
        ("hydra/sweeper=basic", "optimizer.lr=-1,1e-3", "-m"),
        lambda f, _: trials(f, "outputs/sweeps/*-*-*/*/[01]", ["failed", "completed"]),
        code=7,
    ),
    "hydra/sweeper=basic hydra/launcher=joblib, a job fails": Row(
        ("hydra/sweeper=basic", "hydra/launcher=joblib", "threads=0,-1", "-m"),
        prints("job 0: threads=0"),
        code=7,
        process=True,
    ),
    "hydra/sweeper=basic hydra.sweep.subdir=${hydra.job.override_dirname}": Row(
        (
            "-m",
            "hydra/sweeper=basic",
            "hydra.sweep.dir=mine",
            "hydra.sweep.subdir=${hydra.job.override_dirname}",
            "seed=choice(3)",
        ),
        lambda f, _: trials(f, "mine/seed=3", ["completed"]),
    ),
    "hydra/sweeper=optuna": refused("-m", "hydra/sweeper=optuna"),
    "hydra/launcher=basic": Row(("-m", "hydra/launcher=basic"), lambda f, _: has(f / "outputs/sweeps")),
    "launcher=joblib": Row(("-m", "launcher=joblib"), lambda f, _: has(f / "outputs/sweeps"), process=True),
    "launcher=slurm_local": Row(("-m", "launcher=slurm_local"), lambda f, _: has(f / "outputs/sweeps"), process=True),
    "hydra/launcher=nothing": refused("-m", "hydra/launcher=nothing"),
    "vae_lab.tune -m": refused("-m", "seed=0,1", command="tune"),
    "vae_lab.tune -m hydra/sweeper=basic": refused("-m", "hydra/sweeper=basic", command="tune"),
    "--cfg job": shown("--cfg", "job", look=prints("folder: ${hydra:runtime.output_dir}")),
    "--cfg job --resolve": shown("--cfg", "job", "--resolve", look=folder_is_named),
    "--cfg job --package optimizer": shown("-c", "job", "-p", "optimizer", look=prints("# @package optimizer", "lr: ")),
    "--cfg hydra": shown("--cfg", "hydra", look=prints("sweeper:", "dir: outputs/sweeps")),
    "--cfg all": shown("--cfg", "all", look=prints("hydra:", "model:")),
    "--info": shown("--info", look=prints("Installed Hydra Plugins", "TrialSweeper", "Defaults Tree", "_target_: ")),
    "--info searchpath": shown("--info", "searchpath", look=prints("Config search path", str(CONF))),
    "--help": shown("--help", look=prints("== Configuration groups ==", "optimizer: adam, adamw, muon")),
    "--seed=3": refused("--seed=3"),
    "--config-dir own +experiment=mine": Row(
        ("--config-dir", "own", "+experiment=mine"), lambda f, _: has(f, model__nlatent=3)
    ),
    "--config-dir own experiment=mine": Row(
        ("--config-dir", "own", "experiment=mine"), lambda f, _: has(f, model__nlatent=3)
    ),
    "--config-dir nowhere": refused("--config-dir", "nowhere"),
    "hydra.searchpath=[file://own]": Row(
        ("hydra.searchpath=[file://own]", "experiment=mine"), lambda f, _: has(f, model__nlatent=3)
    ),
    "--config-name mytrain": Row(("--config-name", "mytrain", "--config-dir", "own"), lambda f, _: has(f, seed=7)),
    "--config-name bare": Row(("--config-name", "bare", "--config-dir", "own"), prints(), code=2, tiny=False),
    "--config-name bare, model=mlp": refused("--config-name", "bare", "--config-dir", "own", "model=mlp"),
    "--config-name generate": refused("--config-name", "generate"),
    "--config-name nothing": refused("--config-name", "nothing"),
    "--config-path own": refused("--config-path", "own"),
    "+data=mnist": refused("+data=mnist"),
    "++data=mnist": refused("++data=mnist"),
    "schedule=null": refused("schedule=null"),
    "~schedule": refused("~schedule"),
    "~callbacks.improvement": Row(("~callbacks.improvement",)),
    "hydra.job.chdir=true": Row(
        ("hydra.job.chdir=true", "hydra.run.dir=run", "resume=null"), lambda f, _: has(f / "run")
    ),
    "hydra.job.chdir=true data.root=pictures": Row(
        ("hydra.job.chdir=true", "data=folder", "data.root=nowhere"),
        lambda f, output: prints(f"{f}/nowhere does not exist")(f, output),
        code=3,
        tiny=False,
    ),
    "hydra.run.dir=mine": Row(("hydra.run.dir=mine",), lambda f, _: has(f / "mine")),
    "hydra.output_subdir=null": Row(("hydra.output_subdir=null",), lambda f, _: ran(f)["status"] == "completed"),
    "hydra.job.name=mine": Row(("hydra.job.name=mine",), prints("test/sse_kl")),
    "+hydra.job.env_set.NAME=value": Row(("+hydra.job.env_set.NAME=value",)),
    "hydra.job.env_set.NAME=value": refused("hydra.job.env_set.NAME=value"),
    "hydra.verbose=true": Row(("hydra.verbose=true",), prints("Installed Hydra Plugins", "test/sse_kl")),
    "hydra/job_logging=default": Row(("hydra/job_logging=default",), lambda f, _: logs(f, there=True)),
    "hydra/job_logging=none": Row(("hydra/job_logging=none",), lambda f, _: logs(f, there=False)),
    "hydra.callbacks": Row(NOTING, lambda f, _: notes(f, "run starts", "job starts", "job ends COMPLETED", "run ends")),
    "hydra.callbacks -m": Row(
        (*NOTING, "-m"), lambda f, _: notes(f, "multirun starts", "job starts", "job ends COMPLETED", "multirun ends")
    ),
    "--experimental-rerun config.pickle": refused("--experimental-rerun", "config.pickle"),
    "-sc install=bash": shown("-sc", "install=bash", look=prints("_vae_lab_complete()")),
    "-sc install=fish": refused("-sc", "install=fish"),
    "-sc query=bash": Row(
        ("-sc", "query=bash"),
        lambda _, output: output.split() == ["data=mnist", "data=mnist_binary", "data=monet"],
        tiny=False,
        environment={"COMP_LINE": "python -m vae_lab.train data=m"},
    ),
}
WANDB = {
    "WANDB_MODE=offline": Row((), lambda f, _: wandb(f, "offline"), environment={"WANDB_MODE": "offline"}),
    "WANDB_MODE=disabled": Row((), lambda f, _: wandb(f, None), environment={"WANDB_MODE": "disabled"}),
    "WANDB_MODE=maybe": Row((), prints(), code=2, environment={"WANDB_MODE": "maybe"}),
    "WANDB_DISABLED=true": Row(
        (), lambda f, _: wandb(f, None), environment={"WANDB_MODE": "auto", "WANDB_DISABLED": "true"}
    ),
    "WANDB_DIR=scratch": Row(
        (), lambda f, _: wandb(f, "offline", "scratch/wandb"), environment={"WANDB_DIR": "scratch"}
    ),
}
for row in WANDB.values():
    row.logger = "wandb"
ROWS = HYDRA | WANDB


def documented() -> dict[str, str]:
    """What docs/hydra.md says of each row."""
    lines = (ROOT / "docs" / "hydra.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {row[0].strip("`").replace("`, ", ", "): row[1] for row in rows}


SAID = documented()
ELSEWHERE = (
    "wandb agent",
    'compose("train", [...])',
    'compose("train", ["folder=mine"])',
    'train_run(["resume=<run>"])',
    "python -m vae_lab.train data=m<Tab>",
)
"""Rows with a test of their own."""


def test_every_row_of_the_page_is_tested() -> None:
    assert SAID.keys() == {*ROWS, *ELSEWHERE}
    assert not [name for name, said in SAID.items() if not said.startswith(("works", "refused: "))]
    assert [name for name, said in SAID.items() if said.startswith("refused")] == [
        name for name in SAID if name in ROWS and ROWS[name].code == 2
    ]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a command, with configs of somebody's own."""
    for name, text in OWN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in ROWS])
def test_a_row_does_what_the_page_says(
    name: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = ROWS[name]
    for key, value in row.environment.items():
        monkeypatch.setenv(key, value)
    tiny = (*TINY, f"logger={row.logger}") if row.tiny else ()
    if row.process:
        code, output = finish(start(*tiny, *row.arguments, cwd=place), place)
    else:
        main = import_module(f"vae_lab.{row.command}").main
        try:
            code = invoke(main, row.command, *tiny, *row.arguments, monkeypatch=monkeypatch)
        except SystemExit as end:  # of Hydra's parser, which would end the tests
            code = end.code
        output = "".join(capfd.readouterr()) + caplog.text
    assert code == row.code, output
    if row.code == 2:
        assert SAID[name].removeprefix("refused: ").replace("\\|", "|") in output.replace(str(place), "…")
        assert "Traceback" not in output
    row.look(place, output)


def test_a_stock_sweep_does_not_take_a_run_of_other_settings_for_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    from vae_lab.train import main

    line = ("hydra/sweeper=basic", "hydra.sweep.dir=mine", "-m", *TINY, "logger=none")
    assert invoke(main, "train", *line, "seed=0", monkeypatch=monkeypatch) == 0
    before = (place / "mine/0/summary.json").stat().st_mtime_ns
    assert invoke(main, "train", *line, "seed=0", monkeypatch=monkeypatch) == 0, "done already"
    assert invoke(main, "train", *line, "seed=1", monkeypatch=monkeypatch) == 7
    printed = capfd.readouterr().out + caplog.text
    assert "holds a run of other settings; name another place with hydra.sweep.dir=." in printed
    assert (place / "mine/0/summary.json").stat().st_mtime_ns == before


def test_a_stock_sweep_names_its_runs_by_what_is_swept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vae_lab.train import main

    line = ("-m", "hydra/sweeper=basic", *TINY, "logger=wandb", "model.nlatent=choice(2)", "seed=0")
    assert invoke(main, "train", *line, monkeypatch=monkeypatch) == 0
    (file,) = place.rglob("offline-run-*/*.wandb")
    assert wandb_run(file)["display_name"] == "nlatent=2"


def wandb_run(file: Path) -> dict[str, Any]:
    """What W&B's file has about its run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    (run,) = [record["run"] for record in map(json.loads, lines) if record["type"] == "run"]
    return run


@pytest.mark.slow
def test_the_line_that_wandb_s_agent_types_trains(place: Path) -> None:
    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    proposed = {"model.nlatent": 4, "optimizer.lr": 0.0012, "seed": 2}
    assert proposed.keys() == sweep["parameters"].keys()
    words = {
        "${env}": ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [sweep["program"]],
        "${args_no_hyphens}": [f"{key}={value}" for key, value in proposed.items()],
    }  # as wandb/wandb_agent.py fills them in
    line = [word for part in sweep["command"] for word in words.get(part, [part])]
    at = line.index("logger=wandb")
    (place / "proposed.yaml").write_text(
        yaml.safe_dump({"wandb_version": 1} | {key: {"value": value} for key, value in proposed.items()})
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA", "VAE_LAB"))}
    env |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_RUN_ID": "trial1"}
    env |= {"WANDB_SWEEP_ID": "sweep1", "WANDB_SWEEP_PARAM_PATH": str(place / "proposed.yaml")}
    done = subprocess.run(
        [*line[:at], *TINY, *line[at:]], env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    has(place, model__nlatent=4, optimizer__lr=0.0012, seed=2)
    (file,) = place.rglob("offline-run-*/*.wandb")
    run = wandb_run(file)
    assert (run["run_id"], run["sweep_id"]) == ("trial1", "sweep1")


def test_a_composed_config_trains_in_a_notebook(place: Path) -> None:
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, "logger=none", "folder=mine"])
        bare = compose("train", [*TINY, "logger=none"])
    assert train_run(cfg)["status"] == "completed"
    assert (place / "mine" / "summary.json").is_file()
    folder = train_run(bare)["folder"]
    assert re.fullmatch(r"outputs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-[0-9a-f]{6}", str(folder))
    assert (place / str(folder) / "summary.json").is_file()


def test_settings_train_in_a_notebook_as_on_the_command_line(place: Path) -> None:
    tiny = [*(text for text in TINY if not text.startswith("trainer.max_steps")), "logger=none", "trainer.max_epochs=1"]
    summary = train_run([*tiny, "model.nlatent=4.0", "folder=a b"])
    assert (summary["status"], summary["folder"], summary["ended_by"]) == ("completed", "a b", "trainer.max_epochs=1")
    assert summary["max_steps"] == -1, "max_epochs alone switches the default off"
    stored = json.loads((place / "a b" / "summary.json").read_text())
    assert stored["overrides"] == [*tiny, "model.nlatent=4"]
    longer = train_run(["resume=a b", "trainer.max_epochs=2"])
    assert (longer["epochs"], longer["folder"]) == (2, str(place / "a b"))
    for wrong, said in {"data=digit": "choose one of digits", "model.nlaten=3": "did you mean model.nlatent"}.items():
        with pytest.raises(ValueError, match=said):
            train_run([wrong])
    assert not GlobalHydra.instance().is_initialized()


def test_bash_completes_a_command(place: Path) -> None:
    python = shlex.quote(sys.executable)
    script = (
        f'eval "$({python} -m vae_lab.train -sc install=bash)"; COMP_LINE="{sys.executable} -m vae_lab.train data=m"'
        f'; COMP_WORDS=({python} -m vae_lab.train data=m); COMP_CWORD=3; _vae_lab_complete; echo "${{COMPREPLY[@]}}"'
        "; complete -p python"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=120, check=True)
    suggested, rule = done.stdout.splitlines()
    assert suggested == "data=mnist data=mnist_binary data=monet"
    assert "-F _vae_lab_complete python" in rule

"""The search with Optuna, and W&B's own sweeps."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from invoking import invoke
from lightning import Callback
from sweeping import LIMIT

from vae_lab.runs.folder import read_summary, record
from vae_lab.sweeps.results import conclude
from vae_lab.sweeps.trial import Trial
from vae_lab.system.config_dir import CONF
from vae_lab.system.locks import hold
from vae_lab.tune import main

optuna = pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'vae_lab[tune]'", minversion="4.9")

from optuna.distributions import CategoricalDistribution, FloatDistribution  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from vae_lab.sweeps.search import Pruning, Search, begun, described, run_search, states_of  # noqa: E402


def search(folder: Path, ntrials: int, **changes: object) -> Search:
    settings = {
        "study": "test",
        "ntrials": ntrials,
        "storage": None,
        "space": {"x": FloatDistribution(0.0, 1.0)},
        "metrics": {"val/loss": "minimize"},
        "sampler": optuna.samplers.RandomSampler(),
        "pruner": None,
        "folder": folder,
    }
    return Search(**(settings | changes))  # pyright: ignore[reportArgumentType]


def measure(trial: Trial, watchers: Sequence[Callback], resume: str | None, wandb_id: str | None) -> None:
    """A training that is over at once."""
    x = float(trial.overrides[-1].partition("=")[2])
    record(trial.folder, **{"status": "completed", "val/loss": (x - 0.3) ** 2, "val/rate": x})


def test_a_study_goes_on_to_its_number_of_trials_and_names_the_best(tmp_path: Path) -> None:
    assert len(run_search(search(tmp_path, 3), measure).trials) == 3
    study = run_search(search(tmp_path, 8), measure)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
    assert len({trial.params["x"] for trial in study.trials}) == 8
    best = study.best_trial
    assert best.value == min(trial.values[0] for trial in study.trials)
    assert read_summary(Path(best.user_attrs["folder"]))["val/loss"] == best.value
    assert len(run_search(search(tmp_path, 8), measure).trials) == 8


@pytest.mark.slow
def test_workers_share_a_study_and_make_no_trial_too_many(tmp_path: Path) -> None:
    code = f"import sys\nsys.path[:0] = {sys.path!r}\nfrom pathlib import Path\nfrom test_tuning import *\n"
    code += "run_search(search(Path(sys.argv[1]), 12), measure)"
    line = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(line, cwd=Path(__file__).parent) for _ in range(2)]
    assert [worker.wait(LIMIT) for worker in workers] == [0, 0]
    study = run_search(search(tmp_path, 12), measure)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 12


def test_a_killed_trial_is_made_up_for_with_the_same_parameters(tmp_path: Path) -> None:
    def die(trial: Trial, *_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(search(tmp_path, 2), die)
    study = run_search(search(tmp_path, 2), measure)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[0].params == study.trials[1].params
    assert [trial.number for trial in begun(study)] == [1, 2]
    assert study.trials[0].user_attrs["folder"] == study.trials[1].user_attrs["folder"]


def test_a_search_waits_for_a_trial_of_another_process_and_runs_it_if_that_gives_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_search(search(tmp_path, 1), interrupt)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    taken, released = threading.Event(), threading.Event()

    def work() -> None:
        with hold(folder):
            taken.set()
            time.sleep(1)
            released.set()

    def check(trial: Trial, *rest: Any) -> None:
        assert released.is_set()
        measure(trial, *rest)

    other = threading.Thread(target=work)
    other.start()
    taken.wait()
    study = run_search(search(tmp_path, 1), check)
    other.join()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [state.status for state in states_of(study, search(tmp_path, 1)).values()] == ["completed"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_failures_are_told_and_the_search_goes_on(tmp_path: Path) -> None:
    def fail(trial: Trial, *_: object) -> None:
        raise ValueError("no such thing")

    study = run_search(search(tmp_path, 2), fail)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    assert study.trials[0].user_attrs["reason"] == "no such thing"
    assert len(run_search(search(tmp_path, 2), fail).trials) == 2


def test_failed_trials_are_run_again_on_request(tmp_path: Path) -> None:
    def fail(trial: Trial, *_: object) -> None:
        raise ValueError("no such thing")

    failed = run_search(search(tmp_path, 2), fail).trials
    assert len(run_search(search(tmp_path, 2, retry_failed=True), fail).trials) == 4, "once for each call"
    again = search(tmp_path, 2, retry_failed=True)
    study = run_search(again, measure)
    assert [state.status for state in states_of(study, again).values()] == ["completed"] * 2
    assert [trial.params for trial in begun(study)] == [trial.params for trial in failed]
    assert {path.name for path in tmp_path.glob("*/attempt-*")} == {"attempt-1", "attempt-2"}


def test_a_sampler_that_has_no_more_points_ends_the_search(tmp_path: Path) -> None:
    sampler = optuna.samplers.GridSampler({"x": [0.1, 0.2, 0.4]}, seed=0)
    study = run_search(search(tmp_path, 20, sampler=sampler), measure)
    assert sorted(trial.params["x"] for trial in study.trials) == [0.1, 0.2, 0.4]
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


def test_a_search_ends_with_a_table_of_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vae_lab")
    one = search(tmp_path, 3, sampler=optuna.samplers.GridSampler({"x": [0.1, 0.2, 0.5]}, seed=0))
    states = states_of(run_search(one, measure), one)
    conclude(states, "", {"val/rate": False})
    table = caplog.text.partition("val/rate")[2].splitlines()[1:4]
    assert [line.split("x=")[1].split()[0] for line in table] == ["0.5", "0.2", "0.1"]
    assert "best by val/rate, higher is better: x=0.5 (" in caplog.text
    caplog.clear()
    conclude(states, "", {"val/loss": True, "val/rate": True})
    assert [line.split("x=")[1].split()[0] for line in caplog.text.splitlines() if "x=" in line] == ["0.2", "0.1"]


def test_two_metrics_have_a_front(tmp_path: Path) -> None:
    metrics = {"val/loss": "minimize", "val/rate": "minimize"}
    study = run_search(search(tmp_path, 10, metrics=metrics), measure)
    values = [tuple(trial.values) for trial in study.trials]
    unbeaten = {a for a in values if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in values)}
    assert {tuple(trial.values) for trial in study.best_trials} == unbeaten
    with pytest.raises(ValueError, match="other metrics"):
        run_search(search(tmp_path, 10), measure)


def test_the_same_parameters_are_trained_once(tmp_path: Path) -> None:
    trained = []

    def count(trial: Trial, *rest: object) -> None:
        trained.append(trial.folder)
        record(trial.folder, **{"status": "completed", "val/loss": 1.0})

    study = run_search(search(tmp_path, 5, space={"x": CategoricalDistribution(["a", "b"])}), count)
    assert len(study.trials) == 5
    assert len(trained) == len(set(trained)) <= 2


def test_equal_proposals_of_two_workers_are_answered_from_one_folder(tmp_path: Path) -> None:
    trained = []
    one = search(tmp_path, 3, space={"x": CategoricalDistribution(["a"])})
    taken, done = threading.Event(), described({"x": "a"}, one)

    def work() -> None:
        with hold(done.folder):
            taken.set()
            time.sleep(1)
            record(done.folder, **{"status": "completed", "val/loss": 2.0})

    other = threading.Thread(target=work)
    other.start()
    taken.wait()
    study = run_search(one, lambda trial, *_: trained.append(trial))
    other.join()
    assert [(trial.state, trial.values) for trial in begun(study)] == [(TrialState.COMPLETE, [2.0])] * 3
    assert trained == []


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_metric_that_a_run_has_not_is_a_failure_that_says_so(value: float | None, tmp_path: Path) -> None:
    def run(trial: Trial, *_: object) -> None:
        record(trial.folder, **{"status": "completed", "val/loss": value, "val/rate": 1.0, "seed": 3})

    study = run_search(search(tmp_path, 2), run)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    expected = "search.metrics: there is no finite val/loss, but val/rate in its summary.json."
    assert [trial.user_attrs["reason"] for trial in study.trials] == [expected] * 2
    assert len(run_search(search(tmp_path, 2), run).trials) == 2


def test_pruning_by_what_no_validation_has_says_what_there_is(tmp_path: Path, config: Any) -> None:
    from vae_lab.training.run import train_run

    study = optuna.create_study()
    with pytest.raises(ValueError, match=r"there is no finite val/los, but val/mse, .* in a validation"):
        train_run(config("model=mlp"), [Pruning(study.ask(), "val/los")])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metrics": {"val/loss": "low"}}, "val/loss is low; it must be minimize or maximize"),
        ({"metrics": {}}, "need an entry each"),
        ({"space": {}}, "need an entry each"),
    ],
)
def test_a_search_for_nothing_is_refused(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_search(search(tmp_path, 1, **changes), measure)


@pytest.mark.slow
def test_the_command_prunes_and_goes_on(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    tiny = ("data=synthetic", "model=mlp", "trainer.max_steps=8", "trainer.val_check_interval=2", "logger=none")
    prune = ("search.pruner.n_startup_trials=1", "search.ntrials=6", "search.study=mine")
    line = [sys.executable, "-m", "vae_lab.tune", *tiny, *prune]
    # chance might prune none: these seeds are known to, and a second one of the same would propose the same again
    begins, goes_on = ([*line, f"search.sampler.seed={seed}"] for seed in (0, 1))
    first = subprocess.Popen(begins, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    patience = threading.Timer(LIMIT, first.kill)
    patience.start()
    lines: list[str] = []
    while not any("trial 3 of 6" in text for text in lines):
        lines.append(first.stdout.readline())
        assert lines[-1], "".join(lines)
    patience.cancel()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    done = subprocess.run(goes_on, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d of 6 trials completed, \d pruned", done.stdout)
    best = Path(done.stdout.rpartition(", in ")[2].splitlines()[0])
    assert read_summary(best)["status"] == "completed"
    summaries = [read_summary(path.parent) for path in tmp_path.glob("outputs/studies/mine/*/summary.json")]
    states = [one["status"] for one in summaries]
    assert sorted(set(states)) == ["completed", "pruned"], states
    assert len(states) == 6
    pruned = [one for one in summaries if one["status"] == "pruned"]
    assert all(one["steps"] < 8 and "after" in str(one["reason"]) for one in pruned)


def tune(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command, in this process, on models that train four batches."""
    tiny = (
        "model=mlp",
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "logger=none",
        "trainer.precision=32-true",
    )
    return invoke(main, "tune", *tiny, *arguments, monkeypatch=monkeypatch)


@pytest.mark.slow
def test_another_data_set_is_another_study_and_more_trials_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tune("data=synthetic", "search.ntrials=1", monkeypatch=monkeypatch) == 0
    assert tune("data=synthetic", "data.nimages=72", "search.ntrials=1", monkeypatch=monkeypatch) == 0
    assert tune("data=synthetic", "search.ntrials=2", monkeypatch=monkeypatch) == 0
    studies = {path.parent.name: len(list(path.parent.glob("*/summary.json"))) for path in tmp_path.rglob("study.db")}
    assert sorted(studies.values()) == [1, 2]
    assert all(name.startswith("latents_by_lr-") for name in studies)
    printed = capfd.readouterr().out
    assert "2 of 2 trials completed" in printed
    assert re.search(r"best by val/neg_elbo, lower is better: nlatent=\d+ lr=[\d.e-]+ \(\w{10}\), in ", printed)


def test_a_study_by_that_name_of_other_things_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made_of = {"data._target_": "a.Blobs", "data.nimages": 64, "images": "1234"}
    run_search(search(tmp_path, 1, made_of=made_of), measure)
    assert len(run_search(search(tmp_path, 2, made_of=dict(made_of)), measure).trials) == 2
    for change, sentence in {
        "images": r"test is there and was made with images=1234 \(here other\); give this search another name",
        "data._target_": r"made with data=a.Blobs \(here other\); give",
        "model.nlatent": r"made with model.nlatent=null \(here other\); give",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            run_search(search(tmp_path, 3, made_of=made_of | {change: "other"}), measure)
    optuna.create_study(study_name="old", storage=f"sqlite:///{tmp_path / 'study.db'}").ask()
    with pytest.raises(ValueError, match="old is there and does not say what it was made of"):
        run_search(search(tmp_path, 3, study="old"), measure)


def test_a_search_by_the_test_set_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="need an entry each"):
        run_search(search(tmp_path, 1, metrics={}), measure)
    assert "of the test set" not in caplog.text
    run_search(search(tmp_path, 0, metrics={"test/loss": "minimize"}), measure)
    assert "search.metrics: test/loss is measured on the test set" in caplog.text


@pytest.mark.parametrize("path", sorted((CONF / "search").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_composes_and_names_settings_that_exist(path: Path) -> None:
    from hydra.utils import instantiate

    with initialize_config_dir(str(CONF), version_base="1.3"):
        described = instantiate(compose("tune", [f"search={path.stem}"]).search, _convert_="all")
        assert described["study"] is None
        assert Search(**described, folder=Path()).ntrials > 1
        values = [f"{key}={getattr(values, 'low', None)}" for key, values in described["space"].items()]
        compose("train", values)


def test_the_agent_of_a_wandb_sweep_gives_commands_that_hydra_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    stored = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    proposed = {"model.nlatent": {"value": 4}, "optimizer.lr": {"value": 0.0007}, "seed": {"value": 2}}
    assert proposed.keys() == stored["parameters"].keys()
    arguments = create_sweep_command_args({"args": proposed})["args_no_hyphens"]
    template = create_sweep_command(stored["command"])
    assert template[:4] == ["${env}", "${interpreter}", "-m", "${program}"]
    assert template[-1] == "${args_no_hyphens}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*template[4:-1], *arguments])
    assert (cfg.model.nlatent, cfg.optimizer.lr, cfg.seed) == (4, 0.0007, 2)
    assert isinstance(stored["parameters"]["optimizer.lr"]["min"], float)


REFUSED = {
    "several devices": (("trainer.devices=2",), 2, "start it several times"),
    "a sweep": (("-m", "seed=0,1"), 2, "vae_lab.tune takes neither -m nor sweep="),
    "a sweep's file": (("sweep=latents_by_lr",), 2, "vae_lab.tune takes neither -m nor sweep="),
    "a folder": (("folder=mine",), 2, "folder=mine: a search names its folders itself"),
    "a name": (("name=mine",), 2, "name=mine: a search names its trials itself"),
    "a run to go on from": (("resume=mine",), 2, "resume=mine: a search goes on by itself"),
    "a group": (("group=mine",), 2, "group=mine: the trials of a search are grouped by its name"),
    "a launcher": (("launcher=basic",), 2, "launcher=basic: a search trains one trial at a time"),
    "no driver": (("search.storage='firebird://me:secret@x/y'",), 2, "search.storage is no URL of a database"),
    "no module": (("search.storage='oracle+oracledb://me:secret@x/y'",), 2, "search.storage needs a driver"),
    "no URL": (("search.storage=mine",), 2, "search.storage is no URL of a database"),
    "no folder": (("search.storage=sqlite:////nowhere/x.db",), 5, "search.storage (sqlite): unable to open"),
    "a value for a range": (("search.space={model.nlatent:3}",), 2, "search.space: model.nlatent is 3"),
    "a new metric": (("search.metrics={a:minimize}",), 2, "There is no setting search.metrics.a; +search.metrics.a="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_search_cannot_do_is_refused_at_once(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments, code, sentence = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    order = sorted(("data=synthetic", *arguments), key=lambda argument: argument != "-m")
    assert invoke(main, "tune", *order, monkeypatch=monkeypatch) == code
    printed = "".join(capfd.readouterr()) or caplog.text
    assert sentence in printed
    assert "Traceback" not in printed
    assert "secret" not in printed
    assert len(printed.splitlines()) == 1
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize("how", ["--config-dir={}", pytest.param("hydra.searchpath=[{}]", marks=pytest.mark.slow)])
def test_a_search_finds_configs_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "own" / "data" / "mine.yaml").write_text("defaults: [synthetic, _self_]\nnimages: 40\n")
    monkeypatch.chdir(tmp_path)
    tiny = [
        "data=mine",
        "model=mlp",
        "model.encoder.width=8",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "logger=none",
    ]
    arguments = [how.format(tmp_path / "own"), *tiny, "search.ntrials=1", "data.nimages=32.0"]
    assert invoke(main, "tune", *arguments, monkeypatch=monkeypatch) == 0
    (summary,) = Path("outputs/studies").glob("*/*/summary.json")
    assert read_summary(summary.parent)["data"]["ntrain"] == 24

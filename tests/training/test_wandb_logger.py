"""Every argument of Lightning's WandbLogger and of wandb.init reaches W&B; its offline file is read back."""

import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import wandb
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import WandbLogger
from logged import of_kind, wandb_records
from omegaconf import DictConfig, OmegaConf
from test_loggers import DOCS, TINY, require

from vae_lab.system.config_dir import CONF
from vae_lab.training.loggers.wandb import WeightsAndBiases, has_key, run_settings
from vae_lab.training.run import train_run

Records = list[dict[str, Any]]
Opened = Callable[[str], Records]
OURS = {"watch", "watch_every", "define_metric", "timeout"}
MOMENT = "r1?_step=2"
CASES: dict[str, dict[str, Any]] = {
    "typed": {
        "project": "p", "entity": "lab", "name": "n", "notes": "why", "tags": ["t"], "group": "g", "job_type": "job",
        "version": "v1", "allow_val_change": True, "config": {"a": 1, "b": 2}, "config_exclude_keys": ["b"],
        "save_code": True, "settings": {"console": "off", "program_relpath": "x.py", "program_abspath": __file__},
        "prefix": "pre", "checkpoint_name": "mine",
        "add_file_policy": "immutable", "log_model": "all", "offline": True, "save_dir": "elsewhere",
        "watch": "all", "watch_every": 1, "define_metric": {"val/neg_elbo": "min", "val/mse": "max"},
    },
    "another": {
        "id": "i1", "resume": "never", "dir": "there", "mode": "offline", "config": {"a": 1, "b": 2},
        "config_include_keys": ["b"], "force": True, "reinit": "create_new", "anonymous": True,
    },
    "rewound": {"resume_from": MOMENT},
    "forked": {"fork_from": MOMENT},
    "synced": {"sync_tensorboard": True},
    "synced too": {"tensorboard": True},
    "gym": {"monitor_gym": True},
    "opened": {"experiment": None},
}  # fmt: skip
Check = Callable[[Records], bool]


def of_run(**expected: object) -> Check:
    """Whether the record of the run says this."""
    return lambda records: expected.items() <= of_kind(records, "run")[0].items()


def configured(key: str, value: object) -> Check:
    """Whether the hyper-parameters were given to wandb.init; None stands for none."""
    return lambda records: of_kind(records, "run")[0]["config"]["update"].get(key) == value


def with_feature(name: str) -> Check:
    return lambda records: any(name in record.get("feature", {}) for record in of_kind(records, "telemetry"))


def is_artifact(**expected: object) -> Check:
    """Whether there are two artifacts, best.ckpt and last.ckpt, or more, and all say this."""

    def check(records: Records) -> bool:
        found = [artifact for artifact in of_kind(records, "artifact") if artifact["type"] == "model"]
        return len(found) >= 2 and all(expected.items() <= artifact.items() for artifact in found)

    return check


def not_copied(records: Records) -> bool:
    models = [artifact for artifact in of_kind(records, "artifact") if artifact["type"] == "model"]
    manifests = [artifact["manifest"]["contents"] for artifact in models]
    return bool(manifests) and all("/checkpoints/" in entry["local_path"] for entries in manifests for entry in entries)


def logs(*names: str) -> Check:
    return lambda records: set(names) <= {key for row in of_kind(records, "history") for key in row["item"]}


def summarises(name: str, kept: str) -> Check:
    wanted = {"name": name, "summary": {kept: True}}
    return lambda records: any(wanted.items() <= metric.items() for metric in of_kind(records, "metric"))


def both(first: Check, second: Check) -> Check:
    return lambda records: first(records) and second(records)


BIAS = "decoder.layers.0.bias._type"
MOVED = {"metric": "_step", "run": "r1", "value": 2}
CHECKS: dict[str, tuple[str, Check]] = {
    "project": ("typed", of_run(project="p")),
    "entity": ("typed", of_run(entity="lab")),
    "name": ("typed", of_run(display_name="n")),
    "notes": ("typed", of_run(notes="why")),
    "tags": ("typed", of_run(tags=["t"])),
    "group": ("typed", of_run(run_group="g")),
    "job_type": ("typed", of_run(job_type="job")),
    "version": ("typed", of_run(run_id="v1", resume=True)),
    "id": ("another", of_run(run_id="i1")),
    "resume": ("another", lambda records: not of_kind(records, "run")[0].get("resume")),
    "resume_from": ("rewound", of_run(run_id="r1", branch_point=MOVED)),
    "fork_from": ("forked", of_run(branch_point=MOVED)),
    "reinit": ("another", of_run(run_id="i1")),
    "force": ("another", of_run(run_id="i1")),
    "allow_val_change": ("typed", of_run(run_id="v1")),
    "mode": ("another", with_feature("offline")),
    "offline": ("typed", with_feature("offline")),
    "dir": ("another", of_run(run_id="i1")),
    "save_dir": ("typed", of_run(run_id="v1")),
    "config": ("typed", configured("a", 1)),
    "config_include_keys": ("another", both(configured("a", None), configured("b", 2))),
    "config_exclude_keys": ("typed", configured("b", None)),
    "save_code": ("typed", lambda records: "code_path" in of_kind(records, "run")[0]["config"]["update"]["_wandb"]),
    "settings": ("typed", lambda records: not of_kind(records, "output_raw")),
    "tensorboard": ("synced too", with_feature("tensorboard_sync")),
    "sync_tensorboard": ("synced", with_feature("tensorboard_sync")),
    "monitor_gym": ("gym", bool),
    "anonymous": ("another", of_run(run_id="i1")),
    "log_model": ("typed", is_artifact(type="model")),
    "checkpoint_name": ("typed", is_artifact(name="mine")),
    "add_file_policy": ("typed", not_copied),
    "prefix": ("typed", logs("pre-val/neg_elbo", "pre-samples._type")),
    "experiment": ("opened", of_run(project="somebodys")),
    "watch": ("typed", logs(f"gradients/{BIAS}", f"parameters/{BIAS}")),
    "watch_every": ("typed", logs(f"gradients/{BIAS}")),
    "define_metric": ("typed", both(summarises("pre-val/neg_elbo", "min"), summarises("pre-val/mse", "max"))),
    "timeout": ("another", of_run(run_id="i1")),
}
"""Where each argument is given, and what W&B's file says then."""


def logger(folder: Path, settings: dict[str, Any]) -> WeightsAndBiases:
    """The logger of conf/logger/wandb.yaml, with other settings in place of its own."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given: Any = OmegaConf.to_container(compose("train", ["logger=wandb", f"folder={folder}"]).logger, resolve=True)
    return WeightsAndBiases(**{key: value for key, value in (given["wandb"] | settings).items() if key != "_target_"})


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """A function that returns the records of a case: of a training, or of a logger alone."""
    place = tmp_path_factory.mktemp("opened")

    @cache
    def records(case: str) -> Records:
        folder = place / case
        settings: dict[str, Any] = dict(CASES[case])
        settings |= {key: str(folder / settings[key]) for key in ("dir", "save_dir") if key in settings}
        if case == "typed":
            trained(folder, settings)
            return wandb_records(folder / "elsewhere")
        if case == "opened":
            settings["experiment"] = wandb.init(project="somebodys", dir=folder.parent, mode="offline")
            folder = Path(settings["experiment"].dir).parents[1]
        alone = logger(folder, {"mode": "auto", "dir": str(folder)} | settings)
        alone.log_metrics({"val/neg_elbo": 3.0}, step=1)
        alone.close(0)
        return wandb_records(folder / "there" if "dir" in settings else folder)

    return records


def trained(folder: Path, settings: dict[str, Any]) -> None:
    """Train with the W&B logger, whose settings are typed as on a command line."""
    typed = [f"++logger.wandb.{key}={json.dumps(value).replace(chr(34), '')}" for key, value in settings.items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*TINY, "logger=wandb", f"folder={folder}", *typed])
    train_run(cfg)


def arguments(function: Callable[..., object]) -> set[str]:
    return set(inspect.signature(function).parameters) - {"kwargs"}


def test_every_argument_is_documented_and_tested() -> None:
    tables = DOCS.read_text().partition("## Weights & Biases")[2]
    cells = re.findall(r"^\| (`[^|]+) \|", tables, re.MULTILINE)
    named = {name for cell in cells for name in re.findall("`([a-z_]+)`", cell)}
    assert named == CHECKS.keys() == arguments(WandbLogger) | arguments(wandb.init) | OURS


@pytest.mark.parametrize("argument", CHECKS)
def test_an_argument_reaches_wandb(argument: str, opened: Opened) -> None:
    case, check = CHECKS[argument]
    assert argument in CASES[case] or argument == "timeout"
    if argument == "monitor_gym":
        with pytest.raises(ValueError, match="gymnasium"):
            opened(case)
        return
    if "tensorboard" in argument:
        require("tensorboard")
    try:
        assert check(opened(case))
    finally:
        wandb.tensorboard.unpatch()  # pyright: ignore[reportAttributeAccessIssue]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": (
        {"entitty": "lab"},
        "logger.wandb.entitty is an argument neither of wandb.init .* mean entity",
    ),
    "a mode": ({"mode": "maybe"}, "logger.wandb.mode must be one of auto, .* not maybe"),
    "two modes": ({"mode": "online", "offline": True}, "offline=true and logger.wandb.mode=online contradict"),
    "a number": ({"job_type": 3}, "logger.wandb.run_job_type: Input should be a valid string"),
    "resume": ({"resume": "maybe"}, "logger.wandb.resume: Input should be 'allow', 'must', 'never' or 'auto'"),
    "two resumes": ({"fork_from": MOMENT, "resume": "must", "id": "x"}, "logger.wandb: .* are mutually exclusive"),
    "no moment": ({"fork_from": "r1"}, "logger.wandb.fork_from: Could not parse"),
    "a setting": ({"settings": {"no_such": 1}}, "logger.wandb.no_such: Extra inputs are not permitted"),
    "watch": ({"watch": "weights"}, "logger.wandb.watch must be null or one of gradients, .* not weights"),
    "watch_every": ({"watch_every": 0}, "logger.wandb.watch_every must be a whole number"),
    "define_metric": ({"define_metric": {"val/mse": "best"}}, "define_metric: val/mse must be one of min, .* not best"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_wandb_does_not_take_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    settings, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence) as caught:
        logger(tmp_path, {"mode": "offline"} | settings)
    assert "\n" not in str(caught.value)
    assert wandb.run is None


def test_the_summary_keeps_the_best_validation(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    summary = train_run(config("logger=wandb", *TINY, "optimizer.lr=0.5"))
    kept: dict[str, Any] = {}
    for record in of_kind(wandb_records(tmp_path / "run"), "summary"):
        kept |= record["update"]
    rows = [row["item"] for row in of_kind(wandb_records(tmp_path / "run"), "history")]
    seen = [row["val/neg_elbo"] for row in rows if "val/neg_elbo" in row]
    assert len(seen) == 2
    assert kept["val/neg_elbo"] == {"min": min(seen)}
    assert kept["test/neg_elbo"] == pytest.approx(summary["test/neg_elbo"])


@pytest.mark.parametrize("named", ["settings", "environment"])
def test_a_key_counts_for_the_server_that_is_named(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "netrc").write_text("machine wandb.my.lab login user password " + 40 * "0" + "\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_key(run_settings(1.0, None))
    server = "http://wandb.my.lab"
    wandb.teardown()  # which reads the environment once
    try:
        if named == "environment":
            monkeypatch.setenv("WANDB_BASE_URL", server)
        assert has_key(run_settings(1.0, {"base_url": server} if named == "settings" else None))
    finally:
        monkeypatch.undo()
        wandb.teardown()

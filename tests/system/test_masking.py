"""Secrets: in nothing that is written, and nothing else hidden with them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from invoking import invoke
from omegaconf import DictConfig, OmegaConf

from vae_lab.evaluate import main as evaluate
from vae_lab.generate import main as generate
from vae_lab.report import main as report
from vae_lab.runs.folder import load_summary
from vae_lab.runs.load import load_model
from vae_lab.sweeps.trial import digest
from vae_lab.system import masking
from vae_lab.system.masking import masked, remember
from vae_lab.train import main as train
from vae_lab.training.run import resumable, train_run
from vae_lab.tune import main as tune

SECRETS = ("hunter2secret", "k3y-of-the-service", "t0ken-of-env", "s3same-open", "fr0m-the-env", "two w0rds here")
GIVEN = [
    "+password=hunter2secret",
    "+service.api_key=k3y-of-the-service",
    "+service.num_tokens=77",
    "+service.tokenizer=bpe",
    "+remarks=[https://user:s3same-open@example.org/x,${password}]",
    "+db={passwd: 'two w0rds here', user: me}",
    "+hydra.job.env_set.TOKEN=t0ken-of-env",
    "+copied=${oc.env:MY_SECRET}",
    "+token=${oc.env:MY_SECRET}",
]
SMALL = ["data=synthetic", "model=mlp", "model.encoder.width=8", "trainer.max_steps=2", "trainer.val_check_interval=2"]


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has remembered hides nothing in another."""
    monkeypatch.setattr(masking, "_known", set())


HIDES: dict[str, str] = {
    "+password=hunter2": "+password=***",
    "+password='two words'": "+password=***",
    "+password=two words": "+password=***",
    "~db.PASSWD=x": "~db.PASSWD=***",
    "+service.api_key=abc": "+service.api_key=***",
    "+service.apiKey=abc": "+service.apiKey=***",
    "+service.APIKEY=abc": "+service.APIKEY=***",
    "hydra.job.env_set.HF_TOKEN=abc": "hydra.job.env_set.HF_TOKEN=***",
    "+aws.secret_access_key=a/b+c": "+aws.secret_access_key=***",
    "+token=123456": "+token=***",
    "+db={password: abc, user: me}": "+db={password: ***, user: me}",
    "+a=[{token: abc},{tokens: 3}]": "+a=[{token: ***},{tokens: 3}]",
    "logger.wandb.tags=[https://me:abc@host/x]": "logger.wandb.tags=[https://***@host/x]",
    "data.root=smb://me:a@b:c@host/x": "data.root=smb://***@host/x",
    "https://ghp_abc@host/x": "https://***@host/x",
    "https://host/x?token=abc&n=3": "https://host/x?token=***&n=3",
    "logger.wandb.tags=[me:abc@host.org]": "logger.wandb.tags=[***@host.org]",
    "python -m vae_lab.train '+password=abc' seed=1": "python -m vae_lab.train '+password=***' seed=1",
    "trial 0a: +password=abc seed=1": "trial 0a: +password=*** seed=1",
    '{"api_key": "a b c", "n": 1}': '{"api_key": ***, "n": 1}',
}
STAYS = [
    "num_tokens=5",
    "+max_tokens=5",
    "+tokens=[a,b]",
    "+tokenizer=bpe",
    "model.token_dim=64",
    "+secretary=me",
    "+monkey=1",
    "+key=value",
    "+keyboard.api=1",
    "+use_token=true",
    "+token=null",
    "+token=${oc.env:TOKEN}",
    "git@github.com:x/y",
    "data.root=/pictures@home/a:b",
    "https://example.org/@me",
    "val/neg_elbo 183.07 nats (distortion: 183.02)",
    "logger.wandb.tags=[a@b]",
    "12:30:00 INFO me@host.org",
]


@pytest.mark.parametrize(("text", "shown"), HIDES.items(), ids=HIDES.keys())
def test_secrets_are_hidden_in_texts(text: str, shown: str) -> None:
    assert masked(text) == shown
    assert masked(shown) == shown
    assert masked([text, 1]) == [shown, 1]


@pytest.mark.parametrize("text", STAYS)
def test_what_only_sounds_like_a_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_secrets_are_hidden_in_configs_and_wherever_they_occur_again() -> None:
    config: dict[str, Any] = {
        "service": {"api_key": "abcdefg", "num_tokens": 5, "token_size": 64, "tokenizer": "bpe"},
        "db": {"password": 12345678, "users": [{"token": "abc"}]},
        "secret": {"one": "ghijkl", "two": [None, True, "x"]},
        "notes": "calls abcdefg",
        "again": 12345678,
        "abc": "abc",
        "token": {"_target_": "abcdefg.Token", "size": 3},
    }
    before = str(config)
    assert masked(config) == {
        "service": {"api_key": "***", "num_tokens": 5, "token_size": 64, "tokenizer": "bpe"},
        "db": {"password": "***", "users": [{"token": "***"}]},
        "secret": {"one": "***", "two": [None, True, "***"]},
        "notes": "calls ***",
        "again": "***",
        "abc": "abc",  # too short to be told from a word
        "token": {"_target_": "abcdefg.Token", "size": 3},
    }
    assert str(config) == before


def test_what_is_remembered_is_hidden_in_what_is_written_later() -> None:
    text = "cannot log in with abcdefg"
    assert masked(text) == text
    remember({"password": "abcdefg"})
    assert masked(text) == "cannot log in with ***"
    assert masked(text, remembered=False) == text


@pytest.mark.parametrize("text", ["a", "x:", "@ b.c-", ",:", "token=", "token:[", "://", "x=: \"'", "a:b@"])
def test_a_long_text_takes_no_long_time(text: str) -> None:
    started = time.monotonic()
    masked(text * 20_000)
    assert time.monotonic() - started < 5


def test_a_trial_is_the_same_with_another_password() -> None:
    assert digest(["seed=1", "+password=a"]) == digest(["+password=b", "seed=1"]) != digest(["seed=2", "+password=a"])
    assert digest(["model.token_dim=64"]) != digest(["model.token_dim=32"])
    before = digest(["data=synthetic", "+token=${oc.env:X}"])
    remember({"token": "synthetic"})
    assert digest(["data=synthetic", "+token=${oc.env:X}"]) == before


def leaks(folder: Path) -> list[str]:
    """The files below a folder in which there is a secret, in their bytes or their names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 3
    return [
        f"{path.relative_to(folder)}: {secret}"
        for path in files
        for secret in SECRETS
        if secret.encode() in path.read_bytes() or secret in str(path)
    ]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in an empty folder, with a secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_SECRET", "fr0m-the-env")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("TOKEN", raising=False)

    def command(main: Callable[[], None], name: str, *arguments: str) -> int:
        return invoke(main, name, *arguments, monkeypatch=monkeypatch)

    return command


@pytest.mark.parametrize("logger", ["wandb", "none"])
def test_a_run_and_all_that_is_made_of_it_hold_no_secret(
    run: Callable[..., int], tmp_path: Path, logger: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tags = ["logger.wandb.tags=[https://user:s3same-open@example.org]"] if logger == "wandb" else []
    assert run(train, "train", *SMALL, *GIVEN, *tags, f"logger={logger}", "hydra.run.dir=one") == 0
    assert run(report, "report", "runs=one", "out=page.html") == 0
    assert run(generate, "generate", "run=one", "n=2") == 0
    assert leaks(tmp_path) == []
    assert not [secret for secret in SECRETS if secret in "".join(capfd.readouterr())]
    config = (tmp_path / "one" / ".hydra" / "config.yaml").read_text()
    assert "password: '***'" in config
    assert "num_tokens: 77" in config
    assert "tokenizer: bpe" in config
    assert "${oc.env:MY_SECRET}" in config
    assert "'+password=***'" in load_summary(tmp_path / "one")["command"]
    load_model(tmp_path / "one")


def test_an_evaluation_holds_no_secret(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(train, "train", *SMALL, *GIVEN, "logger=none", "hydra.run.dir=one") == 0
    few = ["nsamples=2", "nll_images=4", "ngenerated=4", "ngroups=2", "nreplicates=2", "k=1", "features=vgg"]
    assert run(evaluate, "evaluate", "run=one", *few) == 0
    assert (tmp_path / "one" / "evaluation-test.json").is_file()
    assert leaks(tmp_path) == []


@pytest.mark.slow
def test_a_sweep_and_a_search_hold_no_secret(run: Callable[..., int], tmp_path: Path) -> None:
    given = ["group=grid", "logger=wandb", *GIVEN]
    assert run(train, "train", "-m", *SMALL, *given, "seed=0,1") == 0
    assert run(report, "report", "runs=outputs") == 0
    assert run(tune, "tune", *SMALL, *GIVEN, "logger=none", "search.ntrials=1") == 0
    assert leaks(tmp_path) == []
    again = [text.replace("hunter2secret", "an0ther-one") for text in given]
    assert run(train, "train", "-m", *SMALL, *again, "seed=0,1") == 0
    assert len(list((tmp_path / "outputs" / "sweeps" / "grid").glob("*/summary.json"))) == 2


FAILURES = {
    "a setting that is wrong": ["model.nlatent=-1"],
    "an address that cannot be": ["data=monet", "data.root=https://user:s3same-open@example.org/x"],
    "a folder that names a secret": ["data=folder", "data.root=/nowhere/hunter2secret"],
    "no such setting": ["model.nowhere=hunter2secret"],
    "no override": ["+password=hunter2secret'"],
}


@pytest.mark.parametrize("wrong", FAILURES.values(), ids=FAILURES.keys())
def test_a_run_that_fails_tells_no_secret(
    run: Callable[..., int],
    tmp_path: Path,
    wrong: list[str],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(train, "train", *SMALL, *GIVEN, "logger=none", "hydra.run.dir=one", *wrong) != 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files for secret in SECRETS if secret.encode() in path.read_bytes()]
    told = caplog.text + "".join(capfd.readouterr())
    assert told
    assert not [secret for secret in SECRETS if secret in told]


def test_a_run_goes_on_though_its_secrets_were_not_stored(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    cfg = config("+password=hunter2secret")
    train_run(cfg)
    now: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    now["data"]["archive"] = {"url": "https://user:s3same-open@example.org/x.zip"}
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    assert stored["hyper_parameters"]["password"] == "***"
    torch.save(stored | {"hyper_parameters": masked(now)}, path)
    longer = {"resume": str(tmp_path / "run"), "trainer": now["trainer"] | {"max_steps": 6}}
    assert resumable(now | longer, stored["data"]) == str(path)


def test_a_report_hides_what_others_left_open(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(train, "train", *SMALL, "logger=none", "hydra.run.dir=one", "+service.name=x") == 0
    for name in ("summary.json", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        path = tmp_path / "one" / name
        path.write_text(
            path.read_text()
            .replace("service.name=x", "service.token=hunter2secret")
            .replace("name: x", "token: hunter2secret")
        )
    assert run(report, "report", "runs=one", "out=page") == 0
    assert leaks(tmp_path / "page") == []

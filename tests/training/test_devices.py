"""One run in two processes: real torch.distributed on this machine's processor, started as a user would."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from invoking import invoke
from sweeping import LIMIT, TINY, finish, sabotaged, start

from vae_lab.cli.entry import describe_error
from vae_lab.data.batches import OrderedBatches
from vae_lab.data.images import ImageSet
from vae_lab.errors import RanksLost, exit_code, status
from vae_lab.runs.load import load_model
from vae_lab.train import main as train
from vae_lab.training.distributed.failures import FailureReport, read_reports, write_report
from vae_lab.training.distributed.launch import find_root_cause

TWO = (*TINY, "trainer.devices=2", "+callbacks.witness._target_=sabotage.Witness")


def the_folder(cwd: Path) -> Path:
    """The only run folder."""
    (folder,) = (path.parent for path in cwd.glob("outputs/*/*/summary.json"))
    return folder


def summary(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())


def witnesses(cwd: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(cwd.glob("witness-*.json"))]


def process_of(rank: int, cwd: Path, patience: float = LIMIT) -> int:
    """The number of the process with a rank, once the run in `cwd` logs batches."""
    deadline = time.monotonic() + patience
    while not list(cwd.glob("outputs/*/*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            env = (path / "environ").read_bytes().split(b"\0")
            ours = (path / "cwd").readlink() == cwd and b"vae_lab.training.distributed.worker" in (
                path / "cmdline"
            ).read_bytes()
            if ours and f"RANK={rank}".encode() in env:
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank}")


def test_two_processes_train_what_one_does_with_batches_twice_as_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("objective=autoencoder", "trainer.max_steps=6", "trainer.val_check_interval=3")
    settings += ("data.eval_batch_size=4", "trainer.log_every_n_steps=1")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    alone = (*TINY, *settings, "data.batch_size=16", "logger=none")
    assert invoke(train, "train", *alone, monkeypatch=monkeypatch) == 0
    together = (*TWO, *settings, "data.batch_size=8", "logger=wandb")
    code, output = finish(start(*together, cwd=tmp_path / "two"), tmp_path / "two")
    assert code == 0, output
    folders = [the_folder(tmp_path / name) for name in ("one", "two")]
    first, second = witnesses(tmp_path / "two")
    assert first["digest"] == second["digest"]
    assert (first["loggers"], second["loggers"]) == (2, 0)
    assert len(list(folders[1].glob("wandb/offline-run-*"))) == 1
    assert summary(folders[1])["devices"] == 2
    assert [summary(folder)["threads"] for folder in folders] == [1, 1]
    one, two = (load_model(folder, "last").state_dict() for folder in folders)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)
    for name in ("val/distortion", "test/distortion", "test/mse"):
        assert summary(folders[1])[name] == pytest.approx(summary(folders[0])[name], rel=1e-5)
    tables = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in folders]
    for ours, theirs in zip(*tables, strict=True):
        assert float(ours["train/loss"] or 0) == pytest.approx(float(theirs["train/loss"] or 0), rel=1e-4)


@pytest.mark.slow
def test_adversaries_and_their_guard_agree_in_two_processes(tmp_path: Path) -> None:
    game = ("task=cvaegan", "data=digits", "data.batch_size=16", "model.nclasses=10", "task.warmup=2")
    narrow = [f"task.adversaries.{name}.network.widths=[8,8,8]" for name in ("discriminator", "classifier")]
    settings = (*game, *narrow, "task.guard.every=2", "task.guard.patience=1", "trainer.max_steps=12")
    code, output = finish(start(*TWO, *settings, "logger=none", cwd=tmp_path), tmp_path)
    assert code == 0, output
    first, second = witnesses(tmp_path)
    assert first["digest"] == second["digest"], "weights, averages, adversaries and guard"


@pytest.mark.slow
def test_if_one_process_dies_the_run_ends_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    how = (*sabotaged("kill", "1", 5, here="1"), "+callbacks.kill.rank=1")
    code, output = finish(start(*TWO, *how, "logger=none", "trainer.max_steps=100000", cwd=tmp_path), tmp_path)
    assert time.time() - float((tmp_path / "struck").read_text()) < 300
    assert code == 6, output
    assert "process 1 of this run was killed by SIGKILL" in output
    assert "Traceback" not in output
    end = summary(the_folder(tmp_path))
    assert end["status"] == "failed"
    assert end["reason"] == "process 1 of this run was killed by SIGKILL; the others were stopped."


@pytest.mark.slow
def test_if_one_process_fails_its_reason_is_that_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    how = (*sabotaged("raise", "1", 5, here="1"), "+callbacks.raise.rank=1")
    code, output = finish(start(*TWO, *how, "logger=none", "trainer.max_steps=100000", cwd=tmp_path), tmp_path)
    assert code == 1, output
    assert "process 1: Traceback" in output
    assert output.count("Traceback") == 1, output
    end = summary(the_folder(tmp_path))
    assert (end["status"], end["reason"]) == ("failed", "sabotaged in two lines")


def said(when: float, code: int = 2, *, echo: bool = False) -> FailureReport:
    return FailureReport(when, code, "diverged" if code == 4 else "failed", f"said at {when}", f"account {when}", echo)


ENDS: dict[str, tuple[dict[int, int], dict[int, FailureReport], str, int]] = {
    "killed": ({0: 6, 1: -9}, {0: said(1)}, "process 1 of this run was killed by SIGKILL; the others were stopped.", 6),
    "killed, and its launcher ended the other": (
        {0: -15, 1: -11},
        {},
        "process 1 of this run was killed by SIGSEGV",
        6,
    ),
    "left without a word": ({0: 6, 1: 3}, {0: said(1)}, "process 1 of this run ended with exit code 3", 6),
    "the first to fail": ({0: 1}, {0: said(2, 1), 1: said(1, 4)}, "said at 1", 4),
    "an echo comes last": ({0: 6}, {0: said(1, 6, echo=True), 1: said(2)}, "said at 2", 2),
    "echoes alone": ({0: 6, 1: 6}, {0: said(2, 6, echo=True), 1: said(1, 6, echo=True)}, "said at 1", 6),
    "ended by somebody": ({0: -15, 1: -15}, {}, "ended by SIGTERM", 6),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_run_ends_for_the_reason_of_the_process_that_began(name: str) -> None:
    codes, words, reason, code = ENDS[name]
    end = find_root_cause(codes, words)
    assert reason in str(end)
    assert exit_code(end) == code
    assert status(end) == ("diverged" if code == 4 else "failed")
    assert describe_error(end) == (code, end.account), "without a traceback of the launcher's"


def test_what_all_processes_say_is_told_by_the_first_of_them() -> None:
    first, second = said(2)._replace(reason="no images"), said(1)._replace(reason="no images")
    assert find_root_cause({1: 2}, {0: first, 1: second}).account == first.account


def test_the_first_words_of_a_process_are_kept(tmp_path: Path) -> None:
    assert write_report(tmp_path, 1, RuntimeError("a\nb")) == 1
    assert write_report(tmp_path, 1, RanksLost("gone")) == 6
    (words,) = read_reports(tmp_path).values()
    assert (words.code, words.reason, words.echo) == (1, "a b", False)
    assert "RuntimeError: a" in words.account


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_one_batch(tmp_path: Path) -> None:
    process = start(
        *TWO,
        "logger=none",
        "trainer.max_steps=1000000",
        "trainer.val_check_interval=100000",
        "trainer.log_every_n_steps=1",
        cwd=tmp_path,
    )
    os.kill(process_of(1, tmp_path), signal.SIGTERM)
    code, output = finish(process, tmp_path)
    assert code == 143, output
    first, second = witnesses(tmp_path)
    assert first["batches"] == second["batches"]
    folder = the_folder(tmp_path)
    assert summary(folder)["status"] == "interrupted"
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == first["batches"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_in_one_process_ends_both(tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    how = (*sabotaged("diverge", "1", 3, here="1"), "+callbacks.diverge.rank=1")
    code, output = finish(start(*TWO, *how, "logger=none", "trainer.max_steps=1000", cwd=tmp_path), tmp_path)
    assert code == 4, output
    assert summary(the_folder(tmp_path))["status"] == "diverged"


@pytest.mark.slow
def test_trials_of_a_sweep_may_have_two_processes_each(tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    how = (*sabotaged("kill", "4", 3), "+callbacks.kill.rank=1")
    code, output = finish(start("-m", *TWO, *how, "logger=wandb", "model.nlatent=2,4,8", cwd=tmp_path), tmp_path)
    assert code == 7, output
    found = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert sorted(str(one["status"]) for one in found) == ["completed", "completed", "failed"]
    (bad,) = (one for one in found if one["status"] == "failed")
    assert "killed by SIGKILL" in str(bad["reason"])
    assert len(list(tmp_path.glob("outputs/*/*/*/wandb/offline-run-*"))) == 3


@pytest.mark.slow
def test_torchrun_makes_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vae_lab.train")
    settings = (*TINY, "+callbacks.witness._target_=sabotage.Witness", "logger=wandb", "data.batch_size=8")
    code, output = finish(start(*torchrun[1:], *settings, cwd=tmp_path, module=torchrun[0]), tmp_path)
    assert code == 0, output
    folder = the_folder(tmp_path)
    assert len(list(tmp_path.glob("outputs/*/*"))) == 1
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert len({str(one["digest"]) for one in witnesses(tmp_path)}) == 1
    code, output = finish(start(*torchrun[1:], "-m", *settings, "seed=0,1", cwd=tmp_path, module=torchrun[0]), tmp_path)
    assert code != 0
    assert "one process runs a sweep" in output


@pytest.mark.parametrize(("n", "size", "world"), [(10, 4, 1), (10, 4, 2), (5, 4, 4), (7, 100, 3)])
def test_processes_share_the_images_to_validate_on(n: int, size: int, world: int) -> None:
    images = ImageSet(torch.arange(n, dtype=torch.uint8)[:, None, None, None], torch.zeros(n, dtype=torch.int64))
    shares = [OrderedBatches(images, size, rank, world) for rank in range(world)]
    seen = [round(255 * float(image)) for share in shares for batch in share for image in batch.image]
    assert sorted(seen) == list(range(n))
    assert all(len(share) == len(list(share)) > 0 for share in shares)
    with pytest.raises(ValueError, match="start fewer"):
        OrderedBatches(images, size, 0, n + 1)

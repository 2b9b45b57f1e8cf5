"""What each argument of lightning.Trainer is for, seen in the numbers of a run; the rows of docs/lightning.md."""

from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.profilers import SimpleProfiler
from lightning_rows import Check, Row, heard

from vae_lab.errors import DivergedError
from vae_lab.training.callbacks.progress import ProgressLine

LEAST = 1e-4
EARLY = {"monitor": "val/neg_elbo", "patience": 1, "min_delta": 1e9}
"""Settings of EarlyStopping with which the second validation ends training."""


def accelerator(row: Row) -> None:
    assert row.run({"trainer.accelerator": "cpu"}).seen.task.device.type == "cpu"


def strategy(row: Row) -> None:
    run = row.run({"trainer.strategy": "ddp"})
    assert (run.summary["devices"], run.summary["steps"]) == (1, 8)


def devices(row: Row) -> None:
    assert row.run({"trainer.devices": 1}).summary["devices"] == 1
    assert row.build({"trainer.devices": "auto"})[2].num_devices == 1


def num_nodes(row: Row) -> None:
    assert row.run({"trainer.num_nodes": 1}).seen.trainer.num_nodes == 1  # pyright: ignore[reportOptionalMemberAccess]


def precision(row: Row) -> None:
    single = row.run({"trainer.precision": "32"})
    assert single.seen.precisions == {"32-true"}
    double = row.run({"trainer.precision": "64-true"})
    assert double.checkpoint()["state_dict"]["model.decoder.layers.0.weight"].dtype == torch.float64
    assert double.summary["test/neg_elbo"] == pytest.approx(single.summary["test/neg_elbo"], rel=1e-3)
    mixed = row.run({"trainer.precision": "bf16"})
    assert (mixed.seen.precisions, mixed.summary["precision"]) == ({"bf16-mixed"}, "bf16-mixed")
    assert mixed.summary["test/neg_elbo"] == pytest.approx(single.summary["test/neg_elbo"], rel=1e-2)
    assert mixed.summary["test/neg_elbo"] != single.summary["test/neg_elbo"]


def scaled_precision(row: Row) -> None:
    expected = "16-mixed" if torch.cuda.is_available() else "bf16-mixed"
    assert row.run({"trainer.precision": "16-mixed"}).seen.precisions == {expected}


def fast_dev_run(row: Row) -> None:
    for value, number in ((True, 1), (3, 3)):
        run = row.run({"trainer.fast_dev_run": value})
        assert (run.summary["status"], run.summary["steps"], len(run.seen.batches)) == ("fast_dev_run", number, number)
        assert (run.seen.validated, run.seen.ntest, run.files) == ([number], 1, [])
        assert run.summary["tested"] == "last weights"
        assert not (run.folder / "metrics.csv").exists()


def max_epochs(row: Row) -> None:
    run = row.run({"trainer.max_epochs": 3})
    assert (run.summary["steps"], run.summary["ended_by"]) == (12, "trainer.max_epochs=3")
    both = row.run({"trainer.max_epochs": 3, "trainer.max_steps": 5})
    assert (both.summary["steps"], both.summary["ended_by"]) == (5, "trainer.max_steps=5")
    assert row.run({"trainer.max_epochs": 0}).summary["ended_by"] == "trainer.max_epochs=0"


def max_steps(row: Row) -> None:
    run = row.run({"trainer.max_steps": 7})
    assert (run.summary["ended_by"], len(run.seen.batches), run.seen.validated) == ("trainer.max_steps=7", 7, [4, 7])
    assert run.checkpoint()["global_step"] == 7
    assert row.run({"trainer.max_steps": 0}).summary["ended_by"] == "trainer.max_steps=0"


def min_epochs(row: Row) -> None:
    run = row.run({"trainer.min_epochs": 3, "trainer.max_epochs": 9}, EarlyStopping(**EARLY))
    assert run.summary["steps"] == 12, "not 8"


def min_steps(row: Row) -> None:
    run = row.run({"trainer.min_steps": 10, "trainer.max_steps": 20}, EarlyStopping(**EARLY))
    assert run.summary["steps"] == 10, "not 8"
    assert run.seen.validated[-1] == 10


def max_time(row: Row) -> None:
    run = row.run({"trainer.max_time": "00:00:00:01"})
    assert (run.summary["status"], run.summary["ended_by"]) == ("completed", "trainer.max_time or a Timer")
    assert run.seen.validated[-1] == run.summary["steps"] == len(run.seen.batches) >= 4  # in a second


def limit_train_batches(row: Row) -> None:
    for value in (2, 0.5):
        run = row.run({"trainer.limit_train_batches": value, "trainer.max_epochs": 2})
        assert [len(epoch) for epoch in run.epochs] == [2, 2]
    none = row.run({"trainer.limit_train_batches": 0})
    assert (none.summary["steps"], none.summary["ended_by"]) == (
        0,
        "no training batches, by trainer.limit_train_batches",
    )


def limit_val_batches(row: Row) -> None:
    assert row.run({"trainer.limit_val_batches": 1, "data.eval_batch_size": 4}).seen.nval == 2
    none = row.run({"trainer.limit_val_batches": 0})
    assert (none.seen.nval, none.files, none.summary["tested"]) == (0, ["last.ckpt"], "last weights")


def limit_test_batches(row: Row) -> None:
    assert row.run({"trainer.limit_test_batches": 1, "data.eval_batch_size": 4}).seen.ntest == 1
    none = row.run({"trainer.limit_test_batches": 0})
    assert none.seen.ntest == 0
    assert "test/neg_elbo" not in none.summary


def limit_predict_batches(row: Row) -> None:
    data, task, trainer = row.build({"trainer.limit_predict_batches": 1, "data.eval_batch_size": 4})
    (batch,) = trainer.predict(task, data) or []
    assert batch["posterior_mean"].shape == (4, 2)  # pyright: ignore[reportArgumentType, reportCallIssue]


def overfit_batches(row: Row) -> None:
    run = row.run({"trainer.overfit_batches": 1, "trainer.max_epochs": 3})
    assert len(run.seen.batches) == 3
    assert all(batch.equal(run.seen.batches[0]) for batch in run.seen.batches)
    half = row.run({"trainer.overfit_batches": 0.5, "trainer.max_epochs": 2, "data.eval_batch_size": 4})
    assert [len(epoch) for epoch in half.epochs] == [2, 2]
    assert all(a.equal(b) for a, b in zip(*half.epochs, strict=True))


def val_check_interval(row: Row) -> None:
    assert row.run({"trainer.val_check_interval": 3}).seen.validated == [3, 6, 8]
    assert row.run({"trainer.val_check_interval": 0.5}).seen.validated == [2, 4, 6, 8]
    assert row.run({"trainer.val_check_interval": "00:00:00:00"}).seen.validated == list(range(1, 9))


def check_val_every_n_epoch(row: Row) -> None:
    run = row.run({"trainer.check_val_every_n_epoch": 2, "trainer.max_epochs": 5})
    assert run.seen.validated == [8, 16, 20]


def num_sanity_val_steps(row: Row) -> None:
    run = row.run({"trainer.num_sanity_val_steps": 1, "data.eval_batch_size": 4})
    assert (run.seen.nsanity, run.column("step")[0]) == (1, 4.0)


def log_every_n_steps(row: Row) -> None:
    run = row.run({"trainer.log_every_n_steps": 3})
    assert [row["step"] for row in run.table if row["train/loss"]] == ["3", "6"]


def enable_checkpointing(row: Row) -> None:
    run = row.run({"trainer.enable_checkpointing": False})
    assert (run.files, run.summary["tested"]) == ([], "last weights")


def enable_progress_bar(row: Row) -> None:
    for wanted in (True, False):
        _, _, trainer = row.build({"trainer.enable_progress_bar": wanted})
        assert any(isinstance(one, ProgressLine) for one in trainer.callbacks) == wanted  # pyright: ignore[reportAttributeAccessIssue]


def enable_model_summary(row: Row) -> None:
    assert "Trainable params" in heard(row, {"trainer.enable_model_summary": True})
    assert "Trainable params" not in heard(row, {})


def accumulate_grad_batches(row: Row) -> None:
    still = {"optimizer.lr": 0.0, "optimizer.fused": False, "trainer.max_epochs": 2}
    each = row.run(still)
    run = row.run({**still, "trainer.accumulate_grad_batches": 2})
    assert (run.summary["steps"], len(run.seen.batches)) == (4, 8)
    for i, gradient in enumerate(run.seen.gradients):
        torch.testing.assert_close(gradient, (each.seen.gradients[2 * i] + each.seen.gradients[2 * i + 1]) / 2)


def gradient_clip_val(row: Row) -> None:
    for name in ("32-true", "bf16-mixed"):
        run = row.run({"trainer.gradient_clip_val": LEAST, "trainer.precision": name}, clipped := Clipped())
        assert len(clipped.norms) == 8
        assert all(norm <= 1.001 * LEAST for norm in clipped.norms)
        assert all(gradient.norm() > LEAST for gradient in run.seen.gradients)


def gradient_clip_algorithm(row: Row) -> None:
    settings = {"trainer.gradient_clip_val": LEAST, "trainer.gradient_clip_algorithm": "value"}
    row.run(settings, clipped := Clipped())
    assert all(largest <= LEAST < norm for largest, norm in zip(clipped.largest, clipped.norms, strict=True))


class Clipped(Callback):
    """Looks at the gradients that the optimizer stepped along: `on_before_optimizer_step` comes before the clipping."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.largest: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        grads = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])
        self.norms.append(float(grads.norm()))
        self.largest.append(float(grads.abs().max()))


def deterministic(row: Row) -> None:
    try:
        assert row.run({"trainer.deterministic": True}).seen.deterministic == {True}
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert row.run().seen.deterministic == {False}


def benchmark(row: Row) -> None:
    before = torch.backends.cudnn.benchmark
    try:
        row.run({"trainer.benchmark": True})
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before


def inference_mode(row: Row) -> None:
    for value in (True, False):
        assert row.run({"trainer.inference_mode": value}).seen.inference == {value}


def use_distributed_sampler(row: Row) -> None:
    runs = [row.run({"trainer.use_distributed_sampler": value}) for value in (True, False)]
    assert runs[0].seen.losses == runs[1].seen.losses


def profiler(row: Row) -> None:
    chosen = SimpleProfiler()
    data, task, trainer = row.build()
    trainer.profiler = chosen  # pyright: ignore[reportAttributeAccessIssue]
    trainer.fit(task, datamodule=data)
    assert len(chosen.recorded_durations["run_training_batch"]) == 8
    assert "run_training_batch" in heard(row, {"trainer.profiler": "simple"})


class Ruin(Callback):
    """Makes a weight in training no number."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            next(getattr(pl_module, "learner", pl_module.model).decoder.parameters()).data.fill_(torch.nan)


def detect_anomaly(row: Row) -> None:
    quiet = {"trainer.log_every_n_steps": 100, "trainer.val_check_interval": 8}
    try:
        with pytest.raises(DivergedError, match="returned nan values in its"):
            row.run({"trainer.detect_anomaly": True, **quiet}, Ruin())
    finally:
        torch.autograd.set_detect_anomaly(mode=False)


def sync_batchnorm(row: Row) -> None:
    assert row.run({"trainer.sync_batchnorm": True}).summary["steps"] == 8


def reload_dataloaders(row: Row) -> None:
    seen: list[int] = []

    class Counts(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(id(trainer.train_dataloader))
            kept.append(trainer.train_dataloader)

    kept: list[Any] = []
    plain = row.run({"trainer.max_epochs": 3})
    run = row.run({"trainer.reload_dataloaders_every_n_epochs": 1, "trainer.max_epochs": 3}, Counts())
    assert len(set(seen)) == 3
    assert run.seen.losses == plain.seen.losses


def default_root_dir(row: Row) -> None:
    _, _, trainer = row.build({"trainer.default_root_dir": str(row.folder / "root")})
    assert trainer.default_root_dir == str(row.folder / "root")


def enable_autolog_hparams(row: Row) -> None:
    listener = {"_target_": "lightning_rows.Listener", "folder": "${folder}"}
    for value in (True, False):
        run = row.run({"trainer.enable_autolog_hparams": value, "logger.listener": listener})
        assert (run.folder / "hyper_parameters").exists() == value


WORKS: dict[str, Check] = {
    "accelerator": accelerator,
    "strategy": strategy,
    "devices": devices,
    "num_nodes": num_nodes,
    "precision": precision,
    "precision=16-mixed": scaled_precision,
    "fast_dev_run": fast_dev_run,
    "max_epochs": max_epochs,
    "min_epochs": min_epochs,
    "max_steps": max_steps,
    "min_steps": min_steps,
    "max_time": max_time,
    "limit_train_batches": limit_train_batches,
    "limit_val_batches": limit_val_batches,
    "limit_test_batches": limit_test_batches,
    "limit_predict_batches": limit_predict_batches,
    "overfit_batches": overfit_batches,
    "val_check_interval": val_check_interval,
    "check_val_every_n_epoch": check_val_every_n_epoch,
    "num_sanity_val_steps": num_sanity_val_steps,
    "log_every_n_steps": log_every_n_steps,
    "enable_checkpointing": enable_checkpointing,
    "enable_progress_bar": enable_progress_bar,
    "enable_model_summary": enable_model_summary,
    "accumulate_grad_batches": accumulate_grad_batches,
    "gradient_clip_val": gradient_clip_val,
    "gradient_clip_algorithm": gradient_clip_algorithm,
    "deterministic": deterministic,
    "benchmark": benchmark,
    "inference_mode": inference_mode,
    "use_distributed_sampler": use_distributed_sampler,
    "profiler": profiler,
    "detect_anomaly": detect_anomaly,
    "sync_batchnorm": sync_batchnorm,
    "reload_dataloaders_every_n_epochs": reload_dataloaders,
    "default_root_dir": default_root_dir,
    "enable_autolog_hparams": enable_autolog_hparams,
}
REFUSED: dict[str, list[dict[str, Any]]] = {
    "accelerator=tpu": [{"trainer.accelerator": "tpu"}],
    "accelerator=gpu, without one": [{"trainer.accelerator": name} for name in ("gpu", "cuda", "mps")],
    "strategy=fsdp, deepspeed": [{"trainer.strategy": name} for name in ("fsdp", "deepspeed")],
    "strategy=ddp_spawn": [{"trainer.strategy": name} for name in ("ddp_spawn", "ddp_fork", "ddp_notebook")],
    "devices=-1, [0]": [{"trainer.devices": value} for value in (-1, [0], 0)],
    "num_nodes=2, of processes that were not started": [{"trainer.num_nodes": 2}],
    "precision=16-mixed": [{"trainer.precision": name} for name in ("16-mixed", 16)],
    "precision=16-true, bf16-true": [{"trainer.precision": name} for name in ("16-true", "bf16-true")],
    "precision=transformer-engine": [{"trainer.precision": "transformer-engine"}],
    "logger": [{"trainer.logger": value} for value in (False, True)],
    "callbacks": [{"trainer.callbacks": []}],
    "plugins": [{"trainer.plugins": []}],
    "barebones": [{"trainer.barebones": True}],
    "model_registry": [{"trainer.model_registry": "mine"}],
    "accumulate_grad_batches": [{"trainer.accumulate_grad_batches": 2}],
    "gradient_clip_val": [{"trainer.gradient_clip_val": 1.0}],
    "gradient_clip_algorithm": [{"trainer.gradient_clip_algorithm": "value"}],
    "gradient_clip_algorithm, gradient_clip_val=null": [{"trainer.gradient_clip_algorithm": "value"}],
}
"""Settings that docs/lightning.md says are refused, in one column or in both."""

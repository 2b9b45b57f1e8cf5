"""What each callback and logger of Lightning is for, seen in the numbers of a run; the rows of docs/lightning.md."""

import importlib.util
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch import callbacks as stock
from lightning_rows import LOGGED, Check, Row, Run, heard
from logged import read_mlflow, read_tensorboard, read_wandb

from vae_lab.data.sample import batch_size
from vae_lab.errors import DivergedError, TimeLimit
from vae_lab.runs.load import load_model

NEVER = 1e9
"""An improvement that no epoch makes."""
MODEL = "model.decoder.layers.0.weight"
LEARNER = {"one": MODEL, "several": MODEL.replace("model.", "learner.", 1)}
"""A weight in training."""


def weights(run: Run, name: str = "last") -> dict[str, torch.Tensor]:
    return run.checkpoint(name)["state_dict"]


class Freeze(stock.BaseFinetuning):
    """Trains the decoder alone in the first epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(getattr(pl_module, "learner", pl_module.model).encoder)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.make_trainable(getattr(pl_module, "learner", pl_module.model).encoder)


class Weights(Callback):
    """Remembers the weights of the model in training at the end of each batch."""

    def __init__(self) -> None:
        self.encoder: list[torch.Tensor] = []
        self.all: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        model = getattr(pl_module, "learner", pl_module.model)
        self.encoder.append(torch.cat([p.detach().flatten().clone() for p in model.encoder.parameters()]))
        self.all.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))


def base_finetuning(row: Row) -> None:
    row.run({}, Freeze(), seen := Weights())
    assert seen.encoder[0].equal(seen.encoder[3])
    assert not seen.encoder[3].equal(seen.encoder[7])


class Writer(stock.BasePredictionWriter):
    """Keeps predictions."""

    kept: Any = None

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        self.kept = predictions


def prediction_writer(row: Row) -> None:
    data, task, trainer = row.build({}, writer := Writer("epoch"))
    trainer.predict(task, data)
    assert sum(len(batch["posterior_mean"]) for batch in writer.kept) == 8


class Logs(Callback):
    """Logs a metric of its own from a hook, as somebody's callback does."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("mine", float(batch_idx))


def callback(row: Row) -> None:
    run = row.run(LOGGED, Logs())
    assert [len(epoch) for epoch in run.epochs] == [4, 4]
    assert all(batch.shape == (12, 1, 8, 8) for batch in run.seen.batches)
    assert len(run.seen.gradients) == 8, "on_before_optimizer_step is called"
    assert run.column("mine") == [0.0, 1.0, 2.0, 3.0] * 2


class Keeps(stock.Checkpoint):
    """Somebody's own checkpoint callback."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)


def checkpoint(row: Row) -> None:
    run = row.run({}, Keeps(row.folder / "own.ckpt"))
    assert torch.load(row.folder / "own.ckpt", weights_only=True)["global_step"] == 8
    assert run.files == ["best.ckpt", "last.ckpt"]


def device_stats(row: Row) -> None:
    if importlib.util.find_spec("psutil") is None and not torch.cuda.is_available():
        with pytest.raises(ValueError, match="DeviceStatsMonitor needs the package psutil"):
            row.run({}, stock.DeviceStatsMonitor())
        return
    table = row.run(LOGGED, stock.DeviceStatsMonitor()).table
    assert any(name.startswith("DeviceStatsMonitor") for name in table[0])


def early_stopping(row: Row) -> None:
    run = row.run({"trainer.max_epochs": 9}, stock.EarlyStopping("val/neg_elbo", patience=2, min_delta=NEVER))
    assert (run.summary["steps"], run.seen.validated) == (12, [4, 8, 12])
    assert run.summary["ended_by"].startswith("EarlyStopping: Monitored metric val/neg_elbo")
    seldom = {"trainer.max_epochs": 9, "trainer.log_every_n_steps": 50, "trainer.val_check_interval": 50}
    on_loss = stock.EarlyStopping("train/loss", patience=1, min_delta=NEVER, check_on_train_epoch_end=True)
    run = row.run(seldom, on_loss)
    assert (run.summary["steps"], run.seen.validated) == (8, [8])
    assert float(on_loss.best_score) == pytest.approx(run.seen.losses[3])
    assert run.checkpoint()["global_step"] == 8


def accumulation_scheduler(row: Row) -> None:
    run = row.run({"trainer.max_epochs": 2}, stock.GradientAccumulationScheduler({1: 2}))
    assert (run.summary["steps"], len(run.seen.batches), run.seen.task.last_step) == (6, 8, 6)


def lambda_callback(row: Row) -> None:
    seen: list[int] = []
    row.run({}, stock.LambdaCallback(on_train_batch_end=lambda trainer, *_: seen.append(trainer.global_step)))
    assert seen == list(range(1, 9))


def rate_finder(row: Row) -> None:
    cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True, "max_lr": 1e-3, "total_steps": 8}
    plain = row.run()
    for schedule in ({}, {"schedule": cycle}):
        cfg = {**schedule, "trainer.val_check_interval": 3}
        run = row.run(cfg, finder := stock.LearningRateFinder(max_lr=1e3, num_training_steps=40))
        assert finder.optimal_lr is not None
        found = finder.optimal_lr.suggestion()
        assert found is not None
        assert run.seen.task.lr == found != 5e-4
        assert run.seen.rates[0] == pytest.approx(found / 25 if schedule else found)
        assert max(run.seen.rates) == pytest.approx(found, rel=0.05)
        assert run.seen.losses[0] == pytest.approx(plain.seen.losses[0]), "weights and noise are those without it"
        assert (len(run.seen.batches), run.summary["steps"]) == (8, 8)
    until_nothing_is_finite = {"max_lr": 1e15, "num_training_steps": 40, "early_stop_threshold": None}
    run = row.run(LOGGED, stock.LearningRateFinder(**until_nothing_is_finite, update_attr=False))
    assert run.seen.losses == row.run(LOGGED).seen.losses


def rate_monitor(row: Row) -> None:
    run = row.run(LOGGED, stock.LearningRateMonitor("step"))
    (name, *_) = [name for name in run.table[0] if name.startswith("lr-")]
    assert run.column(name) == [5e-4] * 8
    assert row.run({"trainer.fast_dev_run": True}, stock.LearningRateMonitor("step")).summary["steps"] == 1


def every_n_steps(row: Row) -> None:
    run = row.run({}, stock.ModelCheckpoint(every_n_train_steps=3, save_top_k=-1))
    assert run.files == ["best.ckpt", "epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt", "last.ckpt"]
    stored = run.checkpoint("epoch=1-step=6")
    assert (stored["global_step"], stored["metrics"]) == (6, {}), "the last validation was of other weights"
    assert run.checkpoint("best")["metrics"]
    load_model(run.folder)


def every_n_epochs(row: Row) -> None:
    run = row.run({}, stock.ModelCheckpoint(every_n_epochs=1, save_top_k=-1))
    assert run.files == ["best.ckpt", "epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "last.ckpt"]


def time_interval(row: Row) -> None:
    run = row.run({}, stock.ModelCheckpoint(train_time_interval=timedelta(0), save_top_k=-1))
    assert len([name for name in run.files if "step=" in name]) == 8


def monitored(row: Row) -> None:
    own = stock.ModelCheckpoint(row.folder / "own", monitor="train/loss", every_n_train_steps=1, save_top_k=2)
    run = row.run({"trainer.log_every_n_steps": 50}, own)
    assert sorted(float(score) for score in own.best_k_models.values()) == pytest.approx(sorted(run.seen.losses)[:2])
    assert not run.column("train/loss"), "no more is logged for what is monitored"


class Raises(Callback):
    """Fails at a batch."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise ValueError("sabotage")


def on_exception(row: Row) -> None:
    with pytest.raises(ValueError, match="sabotage"):
        row.run({}, Raises(), stock.ModelCheckpoint(row.folder / "own", save_on_exception=True))
    (path,) = (row.folder / "own").iterdir()
    assert torch.load(path, weights_only=True)["global_step"] == 3


def in_place(row: Row) -> None:
    own = stock.ModelCheckpoint(monitor="val/neg_elbo", filename="best", save_last=True)
    run = row.run({"callbacks.checkpoint": None}, own)
    assert (run.files, run.summary["tested"]) == (["best.ckpt", "last.ckpt"], "best.ckpt")
    load_model(run.folder)


def pruning(row: Row) -> None:
    run = row.run({}, stock.ModelPruning("l1_unstructured", amount=0.5))
    matrices = [weight for name, weight in weights(run).items() if name.startswith("model.") and weight.ndim == 2]
    assert sum(int((weight == 0).sum()) for weight in matrices) >= 0.45 * sum(weight.numel() for weight in matrices)


def summary(row: Row, kind: type[stock.ModelSummary]) -> None:
    said: list[str] = []

    class Says(kind):
        @staticmethod
        def summarize(*_: Any, **__: Any) -> None:
            said.append("a table")

    if kind is stock.ModelSummary:
        assert "decoder" in heard(row, {}, kind(max_depth=2))
    row.run({}, Says(max_depth=2))
    assert said == ["a table"]


def exception_checkpoint(row: Row) -> None:
    with pytest.raises(ValueError, match="sabotage"):
        row.run({}, Raises(), stock.OnExceptionCheckpoint(row.folder / "own"))
    assert torch.load(row.folder / "own" / "on_exception.ckpt", weights_only=True)["global_step"] == 3
    with pytest.raises(ValueError, match="OnExceptionCheckpoint: Lightning would resume from"):
        row.run({}, stock.OnExceptionCheckpoint(row.folder / "own"))


class Counter(stock.ProgressBar):
    """Somebody's own progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self.done = 0

    def enable(self) -> None: ...
    def disable(self) -> None: ...

    def on_train_batch_end(self, *_: Any) -> None:
        self.done += 1


def progress_bar(row: Row) -> None:
    run = row.run({}, bar := Counter())
    assert bar.done == 8
    assert run.seen.trainer is not None
    assert run.seen.trainer.progress_bar_callback is bar, "in place of ours"


def rich_bar(row: Row) -> None:
    assert row.run({}, bar := stock.RichProgressBar()).summary["steps"] == 8
    assert bar.progress is not None


def tqdm_bar(row: Row) -> None:
    row.run({}, bar := stock.TQDMProgressBar())
    assert (bar.train_progress_bar.total, bar.train_progress_bar.n) == (4, 4)


def weight_averaging_at_end(row: Row) -> None:
    for settings in ({"trainer.max_epochs": 3}, {"trainer.max_epochs": 3, "trainer.max_steps": 11}):
        run = row.run(settings, stock.StochasticWeightAveraging(1e-2, swa_epoch_start=2), seen := Weights())
        mean = (seen.all[3] + seen.all[7]) / 2
        stored = weights(run)
        average = torch.cat([stored[name].flatten() for name, _ in run.seen.task.named_parameters()])
        torch.testing.assert_close(average, mean)
        assert run.summary["tested"] == "last weights"
        assert run.checkpoint()["metrics"]["val/neg_elbo"] == run.summary["val/neg_elbo"]
        assert run.checkpoint()["unaveraged_state_dict"][MODEL].flatten().tolist() != average.tolist()
        copy = row.build({})[1]
        copy.load_state_dict(stored)
        _, _, trainer = row.build({})
        data = row.build({})[0]
        assert trainer.test(copy, data, verbose=False)[0]["test/neg_elbo"] == pytest.approx(
            run.summary["test/neg_elbo"]
        )


def spike_detection(row: Row) -> None:
    with pytest.raises(DivergedError, match="SpikeDetection: Training spike detected in batch 1"):
        row.run({}, stock.SpikeDetection(rtol=1e-4))
    assert row.run({}, stock.SpikeDetection()).summary["steps"] == 8


def throughput(row: Row) -> None:
    run = row.run(LOGGED, stock.ThroughputMonitor(partial(batch_size)))
    assert run.column("train/samples")[-1] == 8 * 12


def timer(row: Row) -> None:
    own = stock.Timer(timedelta(seconds=0.5))
    with pytest.raises(TimeLimit):
        row.run({"trainer.max_steps": 10**6}, own)
    assert own.time_elapsed() >= 0.5


def averaging(row: Row, make: Any, *, decaying: bool = False) -> None:
    run = row.run({}, make(), seen := Weights())
    average, count = seen.all[0].clone(), 1
    for weight in seen.all[1:]:
        average = average * 0.5 + weight * 0.5 if decaying else (average + (weight - average) / (count + 1))
        count += 1
    stored = weights(run)
    prefix = "learner." if not row.is_one else "model."
    names = [name for name, _ in run.seen.task.named_parameters() if name.startswith(prefix)]
    torch.testing.assert_close(torch.cat([stored[name].flatten() for name in names]), average)
    now = run.checkpoint()["current_model_state"]
    torch.testing.assert_close(torch.cat([now[name].flatten() for name in names]), seen.all[-1])
    assert run.checkpoint()["metrics"]["val/neg_elbo"] == pytest.approx(run.summary["val/neg_elbo"])


def csv_logger(row: Row) -> None:
    own = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "${folder}/own"}
    run = row.run({"logger.own": own, **LOGGED})
    (path,) = (run.folder / "own").rglob("metrics.csv")
    assert "train/loss" in path.read_text()
    assert run.column("train/loss")


def own_logger(row: Row) -> None:
    run = row.run({"logger.own": {"_target_": "lightning_rows.Listener", "folder": "${folder}"}})
    assert {"hyper_parameters", "metrics"} <= {path.name for path in run.folder.iterdir()}


def logged_by(row: Row, name: str, **settings: Any) -> Path:
    """The folder of a run that one of Lightning's own loggers has recorded."""
    run = row.run({"logger.own": {"_target_": f"lightning.pytorch.loggers.{name}", **settings}, **LOGGED})
    assert run.column("train/loss")
    return run.folder


def tensorboard_logger(row: Row) -> None:
    folder = logged_by(row, "TensorBoardLogger", save_dir="${folder}/own")
    (written,) = (folder / "own").rglob("hparams.yaml")
    assert {"train/loss", "val/neg_elbo"} <= read_tensorboard(written.parent).metrics.keys()


def wandb_logger(row: Row) -> None:
    folder = logged_by(row, "WandbLogger", save_dir="${folder}", offline=True)
    assert {"train/loss", "val/neg_elbo"} <= read_wandb(folder).metrics.keys()


def mlflow_logger(row: Row) -> None:
    pytest.importorskip("mlflow")
    folder = logged_by(row, "MLFlowLogger", tracking_uri="sqlite:///${folder}/mlflow.db")
    assert {"train/loss", "val/neg_elbo"} <= read_mlflow(folder).metrics.keys()


def without_package(row: Row, *, name: str, package: str) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed, and would ask its server")
    with pytest.raises(ValueError, match=rf"logger\.own: .*{name.removesuffix('Logger').lower()}"):
        logged_by(row, name)


WORKS: dict[str, Check] = {
    "BaseFinetuning": base_finetuning,
    "BasePredictionWriter": prediction_writer,
    "Callback": callback,
    "Checkpoint": checkpoint,
    "DeviceStatsMonitor": device_stats,
    "EMAWeightAveraging": partial(averaging, make=partial(stock.EMAWeightAveraging, decay=0.5), decaying=True),
    "EarlyStopping": early_stopping,
    "GradientAccumulationScheduler": accumulation_scheduler,
    "LambdaCallback": lambda_callback,
    "LearningRateFinder": rate_finder,
    "LearningRateMonitor": rate_monitor,
    "ModelCheckpoint, every_n_train_steps": every_n_steps,
    "ModelCheckpoint, every_n_epochs": every_n_epochs,
    "ModelCheckpoint, train_time_interval": time_interval,
    "ModelCheckpoint, monitor=train/loss": monitored,
    "ModelCheckpoint, save_on_exception": on_exception,
    "ModelCheckpoint, in place of ours": in_place,
    "ModelPruning": pruning,
    "ModelSummary": partial(summary, kind=stock.ModelSummary),
    "OnExceptionCheckpoint": exception_checkpoint,
    "ProgressBar": progress_bar,
    "RichModelSummary": partial(summary, kind=stock.RichModelSummary),
    "RichProgressBar": rich_bar,
    "SpikeDetection": spike_detection,
    "StochasticWeightAveraging": weight_averaging_at_end,
    "TQDMProgressBar": tqdm_bar,
    "ThroughputMonitor": throughput,
    "Timer": timer,
    "WeightAveraging": partial(averaging, make=partial(stock.WeightAveraging, use_buffers=False)),
    "WeightAveraging, use_buffers=true": partial(averaging, make=stock.WeightAveraging),
    "CSVLogger": csv_logger,
    "CometLogger": partial(without_package, name="CometLogger", package="comet_ml"),
    "LitLogger": partial(without_package, name="LitLogger", package="litlogger"),
    "MLFlowLogger": mlflow_logger,
    "TensorBoardLogger": tensorboard_logger,
    "WandbLogger": wandb_logger,
    "Logger": own_logger,
}
REFUSED: dict[str, Callable[[], list[Callback]]] = {
    "BackboneFinetuning": lambda: [stock.BackboneFinetuning()],
    "BatchSizeFinder": lambda: [stock.BatchSizeFinder()],
    "GradientAccumulationScheduler": lambda: [stock.GradientAccumulationScheduler({1: 2})],
    "LearningRateFinder": lambda: [stock.LearningRateFinder()],
    "ModelCheckpoint, train_time_interval": lambda: [stock.ModelCheckpoint(train_time_interval=timedelta(1))],
    "ModelCheckpoint, two alike": lambda: [stock.ModelCheckpoint("a"), stock.ModelCheckpoint("b")],
    "ModelPruning": lambda: [stock.ModelPruning("l1_unstructured", amount=0.5)],
    "StochasticWeightAveraging": lambda: [stock.StochasticWeightAveraging(1e-2, swa_epoch_start=1)],
    "StochasticWeightAveraging, a share of no max_epochs": lambda: [stock.StochasticWeightAveraging(1e-2)],
    "WeightAveraging, use_buffers=true": lambda: [stock.WeightAveraging()],
}
"""Callbacks that docs/lightning.md says are refused, in one column or in both."""

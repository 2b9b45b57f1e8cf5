"""One training run: `train_run` builds data, task and trainer, trains, tests and writes the summary."""

import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Callback, Trainer
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import DictConfig, OmegaConf

from vae_lab import errors
from vae_lab.data.datamodule import ImageData
from vae_lab.errors import DivergedError
from vae_lab.probability.latent_model import LatentModel
from vae_lab.probability.scores import bits_per_dimension
from vae_lab.runs.configs import build
from vae_lab.runs.folder import find_run, has_summary, write_summary
from vae_lab.runs.identity import identity, with_absolute_paths
from vae_lab.runs.labels import read_labels
from vae_lab.runs.provenance import device_name, git_commit, versions
from vae_lab.system.folders import require_writable, seen_from_here
from vae_lab.system.locks import hold, holder
from vae_lab.system.masking import masked, remember
from vae_lab.system.processes import ranks
from vae_lab.system.randomness import seeded
from vae_lab.system.threads import threads_in_use
from vae_lab.training.averaging import finish_averaging
from vae_lab.training.callbacks.checkpoints import StoredConfig
from vae_lab.training.callbacks.compiled import Compiled
from vae_lab.training.callbacks.graceful_stop import GracefulStop
from vae_lab.training.callbacks.idle import skip_idle_hooks
from vae_lab.training.callbacks.stopping import TIME, FinalValidation, FolderWatch, LateValidation, ended_by
from vae_lab.training.callbacks.stopwatch import Stopwatch
from vae_lab.training.compose import compose_config, with_folder
from vae_lab.training.distributed import collectives
from vae_lab.training.lightning_log import quieten_lightning
from vae_lab.training.loggers.opening import close_logger, open_loggers
from vae_lab.training.loggers.packages import require_packages
from vae_lab.training.resume import load_initial_weights, resumable
from vae_lab.training.tasks.task import Task
from vae_lab.training.trainer_checks import check_owned, check_pruning, check_resumed

log = logging.getLogger(__name__)

Watcher = TypeVar("Watcher", bound=Callback)


def train_run(
    cfg: DictConfig | Sequence[str], watchers: Sequence[Callback] = (), facts: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Train and test a model by its config, and return the run's summary, which is also written to summary.json.

    The returned summary has the additional entry "folder".

    Args:
        cfg: settings as on the command line, or a composed config. The run folder is `folder`, by default
            outputs/<date>/<time>-<id>.
        watchers: callbacks in addition to those of the config.
        facts: additional entries of the summary.

    Raises:
        ValueError: if a setting is wrong.
        DataError: if the images are missing, unreadable or too few.
        DivergedError: if a value is not finite, or the loss is higher at the end than at the beginning.
        StorageError: if the folder cannot be written, or was removed.
        TimeLimit: if the time limit ended training before the last batch; the run is tested nevertheless.
        Interrupted: if a signal ended the run; during training, a checkpoint is written first.

    Example:
        >>> from vae_lab import train_run
        >>> short = ["trainer.max_steps=20", "trainer.val_check_interval=20", "logger=none"]
        >>> summary = train_run(["data=digits", "model=mlp", *short, "folder=outputs/digits"])
        >>> summary["status"], summary["steps"], summary["folder"]
        ('completed', 20, 'outputs/digits')
    """
    composed, typed = (cfg, {}) if isinstance(cfg, DictConfig) else compose_config(cfg)
    composed = with_folder(composed)
    with GracefulStop() as stop, lock_folder(Path(composed.folder)):
        summary = train_until(stop, composed, watchers, {**typed, **(facts or {})})
    return {**summary, "folder": str(composed.folder)}


def train_until(
    stop: GracefulStop, cfg: DictConfig, watchers: Sequence[Callback], facts: Mapping[str, object]
) -> dict[str, Any]:
    """Train and test a model as `train_run` does, with `stop` to handle signals, and return the run's summary."""
    started = time.perf_counter()
    config = with_absolute_paths(OmegaConf.to_container(cfg, resolve=True))  # pyright: ignore[reportArgumentType]
    config["threads"] = threads_in_use(config["threads"])
    labels = read_labels(config)
    remember(config)
    folder = Path(cfg.folder)
    require_packages(config["logger"])
    if ranks().rank == 0:
        check_folder(folder, config["resume"])
    data, task, trainer = build_parts(cfg, config, watchers)
    trainer.callbacks[:0] = [stop, FolderWatch(folder)]  # pyright: ignore[reportAttributeAccessIssue]
    checkpoint = resumable(config, data.fingerprint)
    check_resumed(trainer.callbacks if checkpoint else ())  # pyright: ignore[reportAttributeAccessIssue]
    summary: dict[str, Any] = {**labels, **describe(cfg, data, task, trainer), "identity": identity(config), **facts}
    if config["init"] is not None:
        summary |= load_initial_weights(task, config["init"])
    loggers: list[Logger] = []
    trainer.loggers = [DummyLogger()]
    if not is_trial_run(trainer):
        hparams = masked(config) if cfg.trainer.enable_autolog_hparams else None
        makers = {str(name): partial(build, settings) for name, settings in cfg.logger.items()}
        trainer.loggers = loggers = open_loggers(makers, folder, hparams)
    summary |= collect_facts(loggers)
    summary["seconds"] = {"setup": time.perf_counter() - started}
    try:
        if ranks().rank == 0:
            write_summary(folder, summary)
        fit_and_test(data, task, trainer, checkpoint, summary)
        summary["status"] = status_of(trainer, summary)
        summary |= {"reason": "trainer.fast_dev_run keeps nothing"} if is_trial_run(trainer) else {}
    except BaseException as error:
        known = translate_error(error)
        summary |= {"status": errors.status(known), "reason": str(known)}
        if isinstance(known, errors.Interrupted):
            summary["ended_by"] = signal.Signals(known.number).name
        if known is error:
            raise
        raise known from error
    finally:
        stop.close()
        collectives.destroy_group()
        summary["seconds"]["total"] = time.perf_counter() - started
        if ranks().rank == 0:
            write_summary(folder, summary)
        for logger in loggers:
            close_logger(logger, exit_code=0 if summary["status"] == "completed" else 1)
    say_end(task, summary, folder)
    return summary


def is_trial_run(trainer: Trainer) -> bool:
    """Return whether `trainer.fast_dev_run` is set: Lightning runs a few batches, without checkpoints or loggers."""
    return bool(trainer.fast_dev_run)  # pyright: ignore[reportAttributeAccessIssue]


def status_of(trainer: Trainer, summary: Mapping[str, Any]) -> str:
    """Return the status of a run that ended without an error: completed, stopped or fast_dev_run.

    A time limit gives "stopped" if it came before the limit of steps or epochs. `trainer.max_time` without another
    limit is the length of training and gives "completed".
    """
    if is_trial_run(trainer):
        return "fast_dev_run"
    limited = trainer.max_steps >= 0 or (trainer.max_epochs or 0) > 0
    return "stopped" if limited and summary["ended_by"] == TIME else "completed"


def say_end(task: Task, summary: Mapping[str, Any], folder: Path) -> None:
    """Log the test metric that judges the model, and what ended training.

    Raises:
        TimeLimit: if the time limit ended training before the last step.
    """
    ended = f"ended by {summary['ended_by']} after {summary['steps']} steps"
    if summary["status"] == "fast_dev_run":
        log.info("fast_dev_run: training, validation and test work; %s, and nothing was kept", ended)
        return
    log.info("%s", judgement(task, summary))
    log.info("%s, %.0f images/s, run folder %s", ended, summary["images_per_second"] or 0, seen_from_here(folder))
    if summary["status"] == "stopped":
        raise errors.TimeLimit(f"training {ended}; resume={folder} goes on, with a longer time.")


def judgement(task: Task, summary: Mapping[str, Any]) -> str:
    """Return a line of text with the test metric that judges the model, and its meaning."""
    metric, meaning = task.judged_by()
    value = summary.get(f"test/{metric}")
    if value is None:
        return "not tested, as trainer.limit_test_batches=0 asks for"
    number = f"{value:.4f}" if metric == "mse" else f"{value:.2f}"
    model = task.model
    if metric == "neg_elbo" and model.likelihood.nlevels:
        bits = bits_per_dimension(torch.tensor(value), model.channels * model.image_size**2)
        meaning += f"; {bits:.3f} bits per dimension"
    return f"test/{metric} {number} (lower is better): {meaning}"


def build_parts(
    cfg: DictConfig, config: dict[str, Any], watchers: Sequence[Callback] = ()
) -> tuple[ImageData, Task, Trainer]:
    """Return the decoded images, the task with initial weights drawn from the seed, and a trainer without loggers."""
    quieten_lightning()
    with seeded("weights", cfg.seed):
        task: Task = build(cfg.task)
    data: ImageData = build(cfg.data)
    callbacks: dict[str, Callback] = build(cfg.callbacks)
    chosen = [*filter(None, callbacks.values()), *watchers, *([Compiled(cfg.compile)] if cfg.compile else [])]
    check_owned({"callbacks": cfg.trainer.callbacks})
    make_trainer = build(cfg.trainer)
    trainer: Trainer = make_trainer(callbacks=[*chosen, Stopwatch()], automatic=task.automatic_optimization)
    check_pruning(chosen, task)
    _ = data.splits  # decoding may take minutes, so it follows all checks of the trainer's settings
    if ranks().rank == 0:
        data.survey.log_lines()
    check_classes(task.model, data)
    watching: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    first = next((i for i, one in enumerate(watching) if isinstance(one, Checkpoint)), len(watching))
    final = FinalValidation()  # after the callbacks that end training, before those that store checkpoints
    watching[first:first] = [StoredConfig(masked(config), data.fingerprint), final]
    watching.insert(0, LateValidation(final))
    skip_idle_hooks(watching)
    return data, task, trainer


def check_classes(model: LatentModel, data: ImageData) -> None:
    """Raise ValueError if images have no classes, or more than the model; warn of classes without training images."""
    if not model.nclasses:
        return
    if not data.classes:
        raise ValueError(
            f"model.nclasses={model.nclasses}, but the images have no classes; choose model.nclasses=0, or"
            " data.labels=subfolders to use the sub-folders of a folder as classes."
        )
    if len(data.classes) > model.nclasses:
        raise ValueError(
            f"model.nclasses={model.nclasses}, but the images have {len(data.classes)} classes; choose"
            f" model.nclasses={len(data.classes)}."
        )
    absent = set(range(model.nclasses)) - set(data.splits.train.labels.tolist())
    if absent:
        line = "no training image is of the classes %s: images generated for them are meaningless"
        if len(data.classes) < model.nclasses:
            line += f"; the images have {len(data.classes)} classes, and model.nclasses={len(data.classes)} is enough"
        log.warning(line, sorted(absent))


def describe(cfg: DictConfig, data: ImageData, task: Task, trainer: Trainer) -> dict[str, Any]:
    """Return the entries of the summary that are known before training."""
    return {
        "status": "running",
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "seed": cfg.seed,
        "data": data.fingerprint,
        "classes": list(data.classes),
        "images": data.survey.as_dict(),
        "class_counts": data.splits.train.labels.bincount(minlength=len(data.classes)).tolist() if data.classes else [],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "versions": versions(),
        "commit": git_commit(),
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
        "precision": trainer.precision,
    }


def fit_and_test(
    data: ImageData, task: Task, trainer: Trainer, checkpoint: str | None, summary: dict[str, Any]
) -> None:
    """Train the task, then test its best checkpoint, and add the results to `summary`."""
    number, size = f"{summary['parameters']:,}", f"{data.channels}x{data.image_size}x{data.image_size}"
    line = "training %s parameters on %s (%d images of %s): %s, %s"
    images = (type(data).__name__, len(data.splits.train), size)
    log.info(line, number, *images, summary["device"], trainer.precision)
    clock, stop = find_callback(trainer, Stopwatch), find_callback(trainer, GracefulStop)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        summary |= {"steps": trainer.global_step, "max_steps": trainer.max_steps, "epochs": trainer.current_epoch}
        summary["seconds"] |= {"fit": clock.fit, "training": clock.training}
        summary["images_per_second"] = clock.images_per_second if clock.images else None
        summary |= logged_metrics(trainer)
        summary |= collect_facts(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    received = collectives.max_over_processes(stop.received or 0, task.device)
    if received:
        raise errors.Interrupted(received, "after a validation and a checkpoint")
    summary["ended_by"] = ended_by(trainer, find_callback(trainer, FinalValidation).limit)
    try:
        summary |= test(trainer, task, data, last=finish_averaging(trainer, task, data))
    finally:
        summary |= collect_facts(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]


def logged_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the logged metrics by name, without those of training batches (train/…)."""
    metrics = trainer.callback_metrics.items()
    return {name: float(value) for name, value in metrics if name != "step" and not name.startswith("train/")}


def collect_facts(parts: Iterable[object]) -> dict[str, Any]:
    """Return the entries that callbacks or loggers add to the summary, from their `describe` methods."""
    facts = [part.describe() for part in parts if hasattr(part, "describe")]  # pyright: ignore[reportAttributeAccessIssue]
    return {name: value for part in facts for name, value in part.items()}


def translate_error(error: BaseException) -> BaseException:
    """Return a clearer error for divergence, a failed compilation or a lost process, else `error` itself."""
    if isinstance(error, RuntimeError) and "returned nan values in its" in str(error):  # torch's anomaly detection
        return DivergedError(f"{error} Try a smaller optimizer.lr.")
    if isinstance(error, TrainingSpikeException):
        return DivergedError(f"SpikeDetection: {error}; try a smaller optimizer.lr, or a larger rtol.")
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = str(error).strip().splitlines()[0]
        return ValueError(f"compile: torch cannot compile the networks here ({reason}); choose compile=false.")
    if collectives.is_distributed() and isinstance(error, RuntimeError) and errors.exit_code(error) == 1:
        text = str(error)
        if isinstance(error, torch.distributed.DistError) or "gloo" in text or "by peer" in text:
            return errors.RanksLost("another process of this run ended or does not respond; see its log.")
    return error


def find_callback(trainer: Trainer, kind: type[Watcher]) -> Watcher:
    """Return the trainer's only callback of a class."""
    (found,) = (callback for callback in trainer.callbacks if isinstance(callback, kind))  # pyright: ignore[reportAttributeAccessIssue]
    return found


def test(trainer: Trainer, task: Task, data: ImageData, *, last: bool) -> dict[str, Any]:
    """Test the last weights if `last` is true or no checkpoint exists, else the best checkpoint; return the metrics.

    The result includes the validation metrics of the same weights.
    """
    keeper = trainer.checkpoint_callback
    best = keeper.best_model_path if isinstance(keeper, ModelCheckpoint) and not last else ""
    tested: dict[str, Any] = {"tested": Path(best).name if best else "last weights"} | (
        logged_metrics(trainer) if last else {}
    )
    if best:
        stored = torch.load(best, map_location=task.device, weights_only=True)
        task.load_state_dict(stored["state_dict"])
        tested |= stored.get("metrics", {})
    trainer.test(task, datamodule=data, verbose=False)
    return tested | logged_metrics(trainer)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder inside a `with` block; do nothing if this command already holds its lock, as in a sweep.

    Raises:
        StorageError: if the folder cannot be written.
        ValueError: if another process holds the lock.
    """
    if ranks().rank > 0:
        yield
        return
    who = holder(folder)
    ours = who is not None and (who.pid == os.getpid() or who.command == os.environ.get("VAE_LAB_RUN", "none"))
    with ExitStack() as stack:
        try:
            mine = ours or stack.enter_context(hold(folder))
        except OSError as error:
            raise errors.StorageError(f"{folder.absolute()} cannot be written: {error.strerror}.") from error
        if not mine:
            who = holder(folder)
            user = "another process" if who is None else f"process {who.pid} on {who.host}"
            raise ValueError(f"folder={folder}: {user} is using this folder; choose another folder, or wait.")
        yield


def check_folder(folder: Path, resume: str | None) -> None:
    """Raise ValueError if the run folder holds another run, and StorageError if it is not writable."""
    resumes = resume is not None and find_run(resume).absolute() == folder.absolute()
    if has_summary(folder) and not resumes:
        raise ValueError(f"folder={folder} already holds a run; choose another folder, or leave it out.")
    require_writable(folder, "name another with folder=")

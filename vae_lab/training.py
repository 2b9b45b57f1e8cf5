"""One training run, from a composed config to a run folder: what the command calls, and a notebook may too."""

import json
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from vae_lab import distributed, errors
from vae_lab.callbacks.checkpoints import StoredConfig
from vae_lab.callbacks.signals import GracefulStop
from vae_lab.callbacks.stopwatch import Stopwatch
from vae_lab.data.module import ImageData
from vae_lab.files import require_writable, write_whole
from vae_lab.models.vae import LatentModel
from vae_lab.provenance import device_name, git_commit, versions
from vae_lab.randomness import seeded
from vae_lab.ranks import ranks
from vae_lab.runs import checkpoint_path, load_checkpoint
from vae_lab.tasks.task import Task

log = logging.getLogger(__name__)

Watcher = TypeVar("Watcher", bound=Callback)


def train(
    cfg: DictConfig, watchers: Sequence[Callback] = (), facts: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return the summary of a run trained as `cfg` says; it also lies in `cfg.folder`, as summary.json.

    Args:
        cfg: the composed config.
        watchers: callbacks beside those of the config.
        facts: what else is to stand in the summary.

    Raises:
        ValueError: if a setting is wrong.
        DataError: if the images are missing, unreadable or too few.
        DivergedError: if the loss left the finite numbers.
        StorageError: if the folder cannot be written.
        Interrupted: if a signal ended it early, after a checkpoint.
    """
    started = time.perf_counter()
    quieten_lightning()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    folder = Path(cfg.folder)
    if ranks().rank == 0:
        check_folder(folder, config["resume"])
    data, task, trainer = build(cfg, config, watchers)
    checkpoint = resumable(config, data.fingerprint)
    summary: dict[str, Any] = {**describe(cfg, data, task, trainer), **(facts or {})}
    trainer.loggers = loggers = open_loggers(cfg, config, summary)
    summary["seconds"] = {"setup": time.perf_counter() - started}
    write_summary(folder, summary)
    try:
        fit_and_test(data, task, trainer, checkpoint, summary)
        summary["status"] = "completed"
    except BaseException as error:
        known = lost(error)
        summary |= {"status": errors.status(known), "reason": str(known)}
        if known is error:
            raise
        raise known from error
    finally:
        distributed.leave()
        watcher(trainer, GracefulStop).restore()
        summary["seconds"]["total"] = time.perf_counter() - started
        write_summary(folder, summary)
        for logger in loggers:
            if hasattr(logger, "close"):
                logger.close(exit_code=0 if summary["status"] == "completed" else 1)  # pyright: ignore[reportAttributeAccessIssue]
    line = "test/neg_elbo %.2f nats (distortion %.2f + rate %.2f), test/sse_kl %.2f, %.0f images/s, run folder %s"
    values = (summary[f"test/{name}"] for name in ("neg_elbo", "distortion", "rate", "sse_kl"))
    log.info(line, *values, summary["images_per_second"], folder)
    return summary


def build(
    cfg: DictConfig, config: dict[str, Any], watchers: Sequence[Callback] = ()
) -> tuple[ImageData, Task, Trainer]:
    """Return the decoded data, the task, its weights drawn from the seed alone, and a trainer that logs nowhere yet."""
    with seeded("weights", cfg.seed):
        task: Task = instantiate(cfg.task, _convert_="all")
    data: ImageData = instantiate(cfg.data, _convert_="all")
    _ = data.parts
    check_classes(task.model, data)
    callbacks: dict[str, Callback] = instantiate(cfg.callbacks, _convert_="all")
    own = [StoredConfig(config, data.fingerprint), GracefulStop(), Stopwatch()]
    trainer: Trainer = instantiate(cfg.trainer, _convert_="all")(callbacks=[*callbacks.values(), *watchers, *own])
    return data, task, trainer


def check_classes(model: LatentModel, data: ImageData) -> None:
    """Raise ValueError if the model is conditional on classes that the images don't have, and warn of idle ones."""
    if not model.nclasses:
        return
    if not data.classes:
        raise ValueError(
            f"model.nclasses={model.nclasses}, and the images have no classes; choose model.nclasses=0, or make classes"
            " of a folder's sub-folders with data.labels=subfolders."
        )
    if len(data.classes) > model.nclasses:
        raise ValueError(
            f"model.nclasses={model.nclasses}, and the images have {len(data.classes)} classes; choose"
            f" model.nclasses={len(data.classes)}."
        )
    absent = set(range(model.nclasses)) - set(data.parts.train.labels.tolist())
    if absent:
        log.warning("no training image is of the classes %s: what they generate means nothing", sorted(absent))


def describe(cfg: DictConfig, data: ImageData, task: Task, trainer: Trainer) -> dict[str, Any]:
    """Return what is known of a run before it starts."""
    return {
        "status": "running",
        "seed": cfg.seed,
        "data": data.fingerprint,
        "classes": list(data.classes),
        "class_counts": data.parts.train.labels.bincount(minlength=len(data.classes)).tolist() if data.classes else [],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "versions": versions(),
        "commit": git_commit(),
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
    }


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, if this process is the one that writes."""
    if ranks().rank == 0:
        write_whole(folder / "summary.json", json.dumps(summary, indent=2).encode())


def open_loggers(cfg: DictConfig, config: dict[str, Any], summary: dict[str, Any]) -> list[Logger]:
    """Return the loggers, which have been given the config, and add what they say of themselves to `summary`.

    Of several processes the first alone has any.
    """
    if ranks().rank > 0:
        return []
    loggers: dict[str, Logger] = instantiate(cfg.logger, _convert_="all")
    for logger in loggers.values():
        logger.log_hyperparams(config)
        summary |= logger.describe() if hasattr(logger, "describe") else {}  # pyright: ignore[reportAttributeAccessIssue]
    return list(loggers.values())


def fit_and_test(
    data: ImageData, task: Task, trainer: Trainer, checkpoint: str | None, summary: dict[str, Any]
) -> None:
    """Train, then test the checkpoint with the best validation, and note in `summary` what was seen."""
    line = "training %s parameters on %d images: %s, %s"
    log.info(line, f"{summary['parameters']:,}", len(data.parts.train), summary["device"], trainer.precision)
    clock, stop = watcher(trainer, Stopwatch), watcher(trainer, GracefulStop)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    finally:
        nimages = data.batch_size * trainer.world_size
        summary["steps"] = task.batches_seen
        summary["seconds"] |= {"fit": clock.fit, "training": clock.training}
        summary["images_per_second"] = clock.batches * nimages / clock.training if clock.training else None
        summary |= {key: float(value) for key, value in trainer.callback_metrics.items()}
    received = distributed.largest(stop.received or 0, task.device)
    if received:
        raise errors.Interrupted(received, "after a validation and a checkpoint")
    summary |= test(trainer, task, data)


def lost(error: BaseException) -> BaseException:
    """Return the error, or what it means if it tells that another process of this run is gone."""
    if distributed.several() and isinstance(error, RuntimeError) and errors.exit_code(error) == 1:
        text = str(error)
        if isinstance(error, torch.distributed.DistError) or "gloo" in text or "by peer" in text:
            return errors.RanksLost("another process of this run has ended or does not answer; its own words tell why.")
    return error


def watcher(trainer: Trainer, kind: type[Watcher]) -> Watcher:
    """Return the trainer's callback of a kind that it has exactly one of."""
    (found,) = (callback for callback in trainer.callbacks if isinstance(callback, kind))  # pyright: ignore[reportAttributeAccessIssue]
    return found


def test(trainer: Trainer, task: Task, data: ImageData) -> dict[str, Any]:
    """Return the test metrics of the checkpoint with the best validation, or of the last weights if none was kept."""
    keeper = trainer.checkpoint_callback
    best = keeper.best_model_path if isinstance(keeper, ModelCheckpoint) else ""
    if best:
        task.load_state_dict(torch.load(best, map_location=task.device, weights_only=True)["state_dict"])
    trainer.test(task, datamodule=data, verbose=False)
    tested = {"tested": Path(best).name if best else "last weights"}
    return tested | {name: float(value) for name, value in trainer.callback_metrics.items()}


def resumable(config: dict[str, Any], data: dict[str, Any]) -> str | None:
    """Return the checkpoint to go on from, or None.

    Raises:
        DataError: if the run to resume has no readable checkpoint.
        ValueError: if it had another seed, model, objective, optimizer, schedule or task, or other images.
    """
    if config["resume"] is None:
        return None
    stored = load_checkpoint(config["resume"], "last")
    kept = ("seed", "data", "model", "objective", "optimizer", "schedule")
    before = stored["hyper_parameters"]
    changed = [key for key in kept if in_use(before.get(key)) != in_use(config[key])]
    if not changed and what_trains(before["task"]) != what_trains(config["task"]):
        changed.append("task")
    if stored.get("data") != data:
        changed.append("set of images")
    if changed:
        raise ValueError(
            f"resume={config['resume']}: that run had another {', '.join(changed)}; repeat its settings, or start anew."
        )
    return str(checkpoint_path(config["resume"], "last"))


def in_use(node: Any) -> Any:  # noqa: ANN401
    """Return a config without the keys that are null or 0: what is off, and what a run from before knows nothing of."""
    if not isinstance(node, dict):
        return node
    return {key: in_use(value) for key, value in node.items() if value is not None and value != 0}


def what_trains(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task's settings but for how long it trains and how often it is looked at."""
    return in_use({key: value for key, value in task.items() if key not in ("max_steps", "val_every", "log_every")})


def check_folder(folder: Path, resume: str | None) -> None:
    """Raise StorageError unless a file can be written to `folder`, and ValueError if it holds another run."""
    goes_on = resume is not None and Path(resume).expanduser().absolute() == folder.absolute()
    if (folder / "summary.json").exists() and not goes_on:
        raise ValueError(f"folder={folder} already holds a run; choose another folder, or leave it out.")
    require_writable(folder)


def quieten_lightning() -> None:
    """Leave of Lightning's log what tells of a fault: the rest is hints, and each line comes twice under Hydra."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).handlers.clear()
    for message in (
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed",
        ".*treespec, LeafSpec",
        "The `srun` command is available",
    ):
        warnings.filterwarnings("ignore", message=f"(?s).*{message}")

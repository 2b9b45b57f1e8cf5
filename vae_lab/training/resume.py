"""Resuming of a run (`resume=`), and initial weights from another one (`init=`)."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_lab.errors import DataError
from vae_lab.runs.folder import Located, checkpoint_path, load_summary, locate, read_summary
from vae_lab.runs.identity import WHEN_RESUMED, WITHOUT_EFFECT, describe_changes, differences
from vae_lab.runs.load import PARTS, load_checkpoint
from vae_lab.system.folders import expanded
from vae_lab.system.masking import HIDDEN
from vae_lab.system.quoting import key, quote_override

if TYPE_CHECKING:
    from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)

LIMITS = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
KEPT = ("seed", "data", "model", "objective", "optimizer", "schedule", "task")
"""What must be as in the run that goes on, but for what has no effect on a training step."""
KEPT_OF_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "overfit_batches",
    "devices",
)
"""Settings of the trainer that must be so too; all others may change, as lengths, intervals and logs."""


def continued(arguments: list[str]) -> list[str]:
    """Return a command line in which `resume=<run>` brings the run's own settings, and its folder.

    What was typed for the run comes first, unless it is typed again. Without folder= or hydra.run.dir= the run goes on
    in its own folder: the first `.hydra/` there stays, and later ones lie beside it.

    Raises:
        DataError: if there is no such run.
        ValueError: if a secret was typed for the run, which no file holds, or a class or place, which is not believed.
    """
    typed = [text for text in arguments if not text.startswith("-")]
    runs = [text.partition("=")[2] for text in typed if key(text) == "resume"]
    if not runs or runs[-1] in ("null", "None", "") or {"-m", "--multirun"} & set(arguments):
        return arguments
    run = runs[-1].strip("'\"")
    at = locate(run, "last")
    if not checkpoint_path(run, "last").is_file():
        load_checkpoint(run, "last")  # which says what is missing
    again = {key(text) for text in typed} | {"resume", "threads"}  # whose number is kept by itself
    if again & set(LIMITS):
        again |= set(LIMITS)
    stored = [str(text) for text in read_summary(at.folder).get("overrides") or [] if key(str(text)) not in again]
    check_stored(run, stored)
    hidden = [key(text) for text in stored if HIDDEN in text]
    if hidden:
        raise ValueError(
            f"resume={run}: {' and '.join(hidden)} was typed for that run and is not stored; type it again."
        )
    return [*arguments, *stored, *in_place(at, typed)]


def check_stored(run: str, overrides: Sequence[str]) -> None:
    """Raise ValueError if a run's own settings could do more than train: a run folder may be a stranger's.

    They may not name classes, nor places but that of the images, nor refer to variables, nor set up Hydra.
    """
    for text in overrides:
        name, _, value = text.partition("=")
        harmless = key(text) == "data.root" and "${" not in text
        if name.startswith("hydra") or "_target_" in text or (not harmless and re.search(r"[/\\]|\$\{", value)):
            raise ValueError(
                f"resume={run}: that run was started with {text}, which names a class or a place and is not taken from"
                " a file; type it again, or its key with another value."
            )


def in_place(at: Located, typed: Sequence[str]) -> list[str]:
    """Return what has Hydra go on in the folder of a run, unless another folder was typed."""
    elsewhere = {"folder", "hydra.run.dir"} & {key(text) for text in typed}
    if elsewhere or at.checkpoint != "last" or not (at.folder / "summary.json").is_file():
        return []
    number = 2
    while (at.folder / f".hydra-{number}").exists():
        number += 1
    return [quote_override("hydra.run.dir", at.folder), f"hydra.output_subdir=.hydra-{number}"]


def resumable(config: dict[str, Any], data: dict[str, Any]) -> str | None:
    """Return the checkpoint to go on from, or None.

    Raises:
        DataError: if the run to resume has no readable checkpoint.
        ValueError: if it had another seed, model, objective, optimizer, schedule or task, or other images; if it has
            completed all that is asked for; or if its learning rate was planned for another length.
    """
    run = config["resume"]
    if run is None:
        return None
    if config["init"] is not None:
        raise ValueError(f"resume={run} goes on with a run, and init={config['init']} starts a new one; choose one.")
    stored = load_checkpoint(run, "last")
    say_version(run)
    before = {name: stored["hyper_parameters"].get(name) for name in KEPT}
    changed = differences(before, {name: config.get(name) for name in KEPT}, (*WITHOUT_EFFECT, *WHEN_RESUMED))
    trainers = [
        {name: some["trainer"].get(name) for name in KEPT_OF_TRAINER} for some in (stored["hyper_parameters"], config)
    ]
    changed += differences({"trainer": trainers[0]}, {"trainer": trainers[1]}, ())
    told = [describe_changes(changed)] if changed else []
    if stored.get("data") != data:
        told.append(other_images(stored, config, data))
    if told:
        raise ValueError(f"resume={run}: that run had {'; '.join(told)}. Repeat its settings, or start anew.")
    check_length(run, stored, config)
    return str(checkpoint_path(run, "last"))


def check_length(run: str, stored: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise ValueError if a run has nothing left to do, or was planned for another length."""
    before, now = stored["hyper_parameters"]["trainer"], config["trainer"]
    lengths = [{name: some.get(name) for name in ("max_steps", "max_epochs", "max_time")} for some in (before, now)]
    if lengths[0] == lengths[1]:
        if read_summary(locate(run, "last").folder).get("status") == "completed":
            raise ValueError(
                f"resume={run}: that run has completed its {stored['global_step']} steps; name a larger"
                " trainer.max_steps or trainer.max_epochs to extend it, or init= to start a new one from its weights."
            )
        return
    schedule = config["schedule"]
    follows = isinstance(schedule, dict) and schedule.get("total_steps", 0) is None
    beta = config["objective"].get("beta")
    shared = isinstance(beta, dict) and isinstance(beta.get("nsteps"), float)
    names = ("max_steps", "max_epochs")
    if (follows or shared) and any(lengths[0][name] != lengths[1][name] for name in names):
        what = "learning rate" if follows else "KL weight"
        length = ", ".join(f"trainer.{name}={value}" for name, value in lengths[0].items() if value not in (None, -1))
        raise ValueError(
            f"resume={run}: its {what} was planned for {length}, and another length was named; repeat that, or"
            " start a new run from its weights with init=."
        )


def other_images(stored: dict[str, Any], config: dict[str, Any], data: dict[str, Any]) -> str:
    """Return in words that a checkpoint was trained on other images, how many there were, and where they lay."""
    if not stored.get("data"):
        return "images of which it stored no fingerprint, as an early version of vae_lab made it"
    counts = [" + ".join(str(some.get(f"n{part}")) for part in PARTS) for some in (stored["data"], data)]
    roots = differences(stored["hyper_parameters"]["data"].get("root"), config["data"].get("root"), ())
    where = f", data.root={roots[0].before} (here {roots[0].now})" if roots else ""
    return f"other images in its three parts: {counts[0]} (here {counts[1]}){where}"


def say_version(run: str | Path) -> None:
    """Warn if the run to go on from was made by another version or commit of vae_lab."""
    from vae_lab.runs.provenance import git_commit, versions  # which take torch along

    try:
        summary = load_summary(locate(run, "last").folder)
    except DataError:  # a checkpoint alone says no version
        return
    versions_before = summary.get("versions") or {}
    before = [str(versions_before.get("vae_lab")), str(summary.get("commit"))]
    now = [str(versions().get("vae_lab")), str(git_commit())]
    if before != now:
        line = "resume=%s: vae_lab %s (commit %s) began that run, and %s (commit %s) goes on with it"
        log.warning(line, run, *before, *now)


def load_initial_weights(task: "Task", run: str) -> dict[str, Any]:
    """Give a task the weights of another run where names and shapes fit, and return what the summary says of it.

    Args:
        task: with fresh weights; a task with a network in training beside its average gives both the same.
        run: a run folder, whose best checkpoint counts, or a checkpoint file.

    Raises:
        DataError: if there is no readable checkpoint.
        ValueError: if none of its weights fits.
    """
    at = locate(run, "best")
    stored: dict[str, Any] = load_checkpoint(run, at.checkpoint)["state_dict"]
    own = task.state_dict()
    fitting: dict[str, Any] = {}
    for name, weight in own.items():
        source = name if name in stored else name.replace("learner.", "model.", 1)
        if source in stored and not name.startswith("guard.") and stored[source].shape == weight.shape:
            fitting[name] = stored[source]
    if not fitting:
        raise ValueError(
            f"init={run}: none of its weights has the name and the shape of one of this model; choose another."
        )
    task.load_state_dict(fitting, strict=False)
    left = [name for name in own if name not in fitting and not name.startswith("guard.")]
    unused = [name for name in stored if name not in own and not name.startswith(("guard.", "means."))]
    log.info("init=%s: %d of %d tensors loaded", run, len(fitting), len(fitting) + len(left))
    for what, names in (("stay fresh, as no stored one fits", left), ("of that run are not used", unused)):
        if names:
            log.warning("init=%s: %s: %s", run, what, ", ".join(names))
    return {"init": {"run": str(expanded(run).absolute()), "loaded": len(fitting), "fresh": left, "unused": unused}}

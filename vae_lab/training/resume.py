"""Resuming a run (`resume=`), and initial weights from another run (`init=`)."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_lab.errors import DataError
from vae_lab.runs.folder import Located, checkpoint_path, find_run, has_summary, load_summary, locate, read_summary
from vae_lab.runs.identity import WHEN_RESUMED, WITHOUT_EFFECT, describe_changes, differences
from vae_lab.runs.load import load_checkpoint
from vae_lab.runs.metrics import PARTS
from vae_lab.system.folders import expanded
from vae_lab.system.masking import HIDDEN
from vae_lab.system.quoting import key, parse, quote_override

if TYPE_CHECKING:
    from vae_lab.training.tasks.task import Task

log = logging.getLogger(__name__)

LIMITS = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
KEPT = ("seed", "data", "model", "objective", "optimizer", "schedule", "task")
"""Groups of settings that a resumed run must repeat, except for those without effect on a training step."""
KEPT_OF_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "limit_train_batches",
    "overfit_batches",
    "devices",
)
"""Settings of the trainer that a resumed run must repeat; others, as lengths and intervals, may change."""


def with_run_folders(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments in which resume= and init= give the path of the run that they name.

    Later, when a trial of a sweep starts or the command is repeated, `last` would be another run.
    """
    return [settled(text) if key(text) in ("resume", "init") else text for text in arguments]


def settled(text: str) -> str:
    """Return an override with the path of each run that it names otherwise than by its path."""
    parsed = parse(text)
    if parsed is None or not (parsed.is_choice_sweep() or isinstance(parsed.value(), str)):
        return text
    chosen: Any = parsed.value()
    values = [str(getattr(one, "text", one)) for one in (chosen.list if parsed.is_choice_sweep() else [chosen])]
    paths = [find_run(value) for value in values]
    if paths == [expanded(value) for value in values]:
        return text
    quoted = [quote_override(key(text), path).partition("=")[2] for path in paths]
    return f"{key(text)}={','.join(quoted)}"


def continued(arguments: list[str]) -> list[str]:
    """Return the command-line arguments; with `resume=<run>`, add that run's stored overrides and its folder.

    Stored overrides that are typed again are left out. Without folder= or hydra.run.dir=, the run continues in its own
    folder, and keeps the first `.hydra/` there beside the new one.

    Raises:
        DataError: if there is no such run.
        ValueError: if a stored override is a secret, which is not in the file, or names a class or a path, which is
            not trusted.
    """
    typed = [text for text in arguments if not text.startswith("-")]
    runs = [text.partition("=")[2] for text in typed if key(text) == "resume"]
    if not runs or runs[-1] in ("null", "None", "") or {"-m", "--multirun"} & set(arguments):
        return arguments
    run = runs[-1].strip("'\"")
    at = locate(run, "last")
    if not checkpoint_path(run, "last").is_file():
        load_checkpoint(run, "last")  # raises an error that says what is missing
    # the number of threads is stored elsewhere, and initial weights have been trained since
    again = {key(text) for text in typed} | {"resume", "threads", "init"}
    if again & set(LIMITS):
        again |= set(LIMITS)
    stored = [str(text) for text in read_summary(at.folder).get("overrides") or [] if key(str(text)) not in again]
    check_stored(run, stored)
    hidden = [key(text) for text in stored if HIDDEN in text]
    if hidden:
        raise ValueError(f"resume={run}: {' and '.join(hidden)} was set for that run but is not stored; type it again.")
    return [*arguments, *stored, *continue_in_folder(at, typed)]


def check_stored(run: str, overrides: Sequence[str]) -> None:
    """Raise ValueError if a stored override is unsafe, because a run folder may come from someone else.

    A stored override must not name a class, nor a path except in data.root, tags and notes, refer to a
    variable, or configure Hydra.
    """
    for text in overrides:
        name, _, value = text.partition("=")
        harmless = key(text) in ("data.root", "tags", "notes") and "${" not in text
        if name.startswith("hydra") or "_target_" in text or (not harmless and re.search(r"[/\\]|\$\{", value)):
            raise ValueError(
                f"resume={run}: that run was started with {text}, which names a class or a path and is not read from a"
                " file; type it again, or its key with another value."
            )


def continue_in_folder(at: Located, typed: Sequence[str]) -> list[str]:
    """Return the overrides that make Hydra continue in a run's folder; none if another folder was typed."""
    elsewhere = {"folder", "hydra.run.dir"} & {key(text) for text in typed}
    if elsewhere or at.checkpoint != "last" or not has_summary(at.folder):
        return []
    number = 2
    while (at.folder / f".hydra-{number}").exists():
        number += 1
    return [quote_override("hydra.run.dir", at.folder), f"hydra.output_subdir=.hydra-{number}"]


def resumable(config: dict[str, Any], data: dict[str, Any]) -> str | None:
    """Check that a run can be resumed, and return the path of its checkpoint; None without `resume=`.

    Raises:
        DataError: if the run has no readable checkpoint.
        ValueError: if the run had other images or other settings that affect training, has already completed all steps,
            or has a schedule for another length.
    """
    run = config["resume"]
    if run is None:
        return None
    if config["init"] is not None:
        raise ValueError(f"resume={run} continues a run, but init={config['init']} starts a new one; choose one.")
    stored = load_checkpoint(run, "last")
    warn_of_version(run)
    before = {name: stored["hyper_parameters"].get(name) for name in KEPT}
    changed = differences(before, {name: config.get(name) for name in KEPT}, (*WITHOUT_EFFECT, *WHEN_RESUMED))
    trainers = [
        {name: one["trainer"].get(name) for name in KEPT_OF_TRAINER} for one in (stored["hyper_parameters"], config)
    ]
    changed += differences({"trainer": trainers[0]}, {"trainer": trainers[1]}, ())
    reasons = [describe_changes(changed)] if changed else []
    if stored.get("data") != data:
        reasons.append(describe_data_change(stored, config, data))
    if reasons:
        raise ValueError(f"resume={run}: that run had {'; '.join(reasons)}. Repeat its settings, or start a new run.")
    check_length(run, stored, config)
    return str(checkpoint_path(run, "last"))


def check_length(run: str, stored: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise ValueError if the run to resume has no steps left, or if its schedules were made for another length."""
    before, now = stored["hyper_parameters"]["trainer"], config["trainer"]
    lengths = [{name: one.get(name) for name in ("max_steps", "max_epochs", "max_time")} for one in (before, now)]
    if lengths[0] == lengths[1]:
        if read_summary(locate(run, "last").folder).get("status") == "completed":
            raise ValueError(
                f"resume={run}: that run has completed its {stored['global_step']} steps; set a larger"
                " trainer.max_steps or trainer.max_epochs to extend it, or init= to start a new run from its weights."
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
            f"resume={run}: its {what} was scheduled for {length}, but another length is set; repeat that length, or"
            " start a new run from its weights with init=."
        )


def describe_data_change(stored: dict[str, Any], config: dict[str, Any], data: dict[str, Any]) -> str:
    """Return a phrase on how the images of a checkpoint's run differ from those of `data`: number and folder."""
    if not stored.get("data"):
        return "no stored fingerprint of its images, as in early versions of vae_lab"
    counts = [" + ".join(str(one.get(f"n{part}")) for part in PARTS) for one in (stored["data"], data)]
    roots = differences(stored["hyper_parameters"]["data"].get("root"), config["data"].get("root"), ())
    where = f", data.root={roots[0].before} (here {roots[0].now})" if roots else ""
    return f"other images in its three parts: {counts[0]} (here {counts[1]}){where}"


def warn_of_version(run: str | Path) -> None:
    """Log a warning if the run was started by another version or commit of vae_lab."""
    from vae_lab.runs.provenance import git_commit, versions  # imports torch

    try:
        summary = load_summary(locate(run, "last").folder)
    except DataError:  # a checkpoint without a run folder has no version
        return
    versions_before = summary.get("versions") or {}
    before = [str(versions_before.get("vae_lab")), str(summary.get("commit"))]
    now = [str(versions().get("vae_lab")), str(git_commit())]
    if before != now:
        line = "resume=%s: vae_lab %s (commit %s) started that run, and %s (commit %s) continues it"
        log.warning(line, run, *before, *now)


def load_initial_weights(task: "Task", run: str) -> dict[str, Any]:
    """Load into a task another run's weights that match in name and shape; return the summary's entry `init`.

    Args:
        task: a task with initial weights; with an EMA, both the EMA and the network in training get the weights.
        run: a run folder, for its best checkpoint, or a checkpoint file.

    Raises:
        DataError: if there is no readable checkpoint.
        ValueError: if no weight matches.
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
        raise ValueError(f"init={run}: none of its weights matches this model in name and shape; choose another run.")
    task.load_state_dict(fitting, strict=False)
    left = [name for name in own if name not in fitting and not name.startswith("guard.")]
    unused = [name for name in stored if name not in own and not name.startswith(("guard.", "means."))]
    log.info("init=%s: %d of %d tensors loaded", run, len(fitting), len(fitting) + len(left))
    for what, names in (("no stored weights match, initialised randomly", left), ("weights not used", unused)):
        if names:
            log.warning("init=%s: %s: %s", run, what, ", ".join(names))
    return {"init": {"run": str(find_run(run).absolute()), "loaded": len(fitting), "fresh": left, "unused": unused}}

"""Records of all runs below a folder, completed or not."""

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.errors import DataError
from vae_lab.reporting.flat_config import ABSENT, Settings, flat_settings
from vae_lab.reporting.untrusted_files import (
    Curve,
    numbers,
    read_curves,
    read_overrides,
    read_yaml,
)
from vae_lab.runs.folder import SUMMARY
from vae_lab.runs.folder import command as command_line
from vae_lab.runs.identity import file_digest, images_digest
from vae_lab.runs.listing import find_runs, last_error
from vae_lab.runs.metrics import PARTS
from vae_lab.system.masking import masked
from vae_lab.system.progress import track
from vae_lab.system.reading import Unreadable, is_number, is_there, read_json

log = logging.getLogger(__name__)

COMPLETED = "completed"
EVALUATIONS = tuple(f"evaluation-{part}" for part in PARTS)
"""Names of the evaluation files, one for each split."""
NPOINTS = 20_000
"""Maximum number of points of a metric's curves over all runs; a run has at most 400 of them."""


class RunRecord(NamedTuple):
    """The content of a run folder that a report uses, as far as it is readable.

    Attributes:
        name: relative path of the folder; for a trial of a sweep the swept settings, and the folder in brackets.
        folder: path of the folder.
        status: status in the summary, such as completed; "unreadable" or "unfinished" without a usable summary.
        reason: why the run has no result, or which files could not be read.
        settings: flattened config; empty if it is unknown.
        seed: seed as text; "" if it is unknown.
        metrics: test/… and val/… of the summary, and the values of evaluation-test.json as evaluation-test/….
        curves: columns of metrics.csv.
        command: command line that repeats the run; "" if it is unknown.
        seconds: duration of the run.
        images_per_second: throughput of training.
        provenance: commit, device, versions and similar facts.
        images: digest of the images of each split.
        protocols: settings of each evaluation, by its file's name.
    """

    name: str
    folder: Path
    status: str
    reason: str = ""
    settings: Settings = {}  # noqa: RUF012 - never written to
    seed: str = ""
    metrics: dict[str, float] = {}  # noqa: RUF012
    curves: dict[str, Curve] = {}  # noqa: RUF012
    command: str = ""
    seconds: float | None = None
    images_per_second: float | None = None
    provenance: dict[str, str] = {}  # noqa: RUF012
    images: dict[str, str] = {}  # noqa: RUF012
    protocols: dict[str, dict[str, Any]] = {}  # noqa: RUF012

    def chosen(self, keys: Sequence[str]) -> Settings:
        """Return the settings with the given keys; the value of a missing setting is a dash."""
        return {key: self.settings.get(key, ABSENT) for key in keys}


def read_runs(roots: Sequence[Path]) -> list[RunRecord]:
    """Return the records of all runs at and below the folders, in the order of `roots`.

    Raises:
        DataError: if a folder is missing or contains no run.
        ValueError: if `roots` is empty.
    """
    if not roots:
        raise ValueError("runs= is empty; set it to a run folder, a folder of runs, or a list of these.")
    folders: dict[Path, None] = {}
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root.absolute()} is not a folder; set runs= to a run folder or a folder of runs.")
        found = list(find_runs(root))
        if not found:
            raise DataError(f"{root.absolute()} contains no run; set runs= to a run folder or a folder of runs.")
        folders |= dict.fromkeys(folder.resolve() for folder in found)
    top = os.path.commonpath(folders) if len(folders) > 1 else str(next(iter(folders)).parent)
    npoints = max(40, min(400, NPOINTS // len(folders)))
    return [read_run(folder, os.path.relpath(folder, top), npoints) for folder in track(list(folders), "reading runs")]


def read_run(folder: Path, name: str, npoints: int = 400) -> RunRecord:
    """Return the record of a run; its `reason` also names files that cannot be read."""
    reasons: list[str] = []
    summary: dict[str, Any] = masked(_tried(reasons, lambda: read_json(folder / SUMMARY), {}))
    status = str(summary.get("status", "unreadable"))[:40]
    if not is_there(folder / SUMMARY):
        status, reasons = "unfinished", [masked(last_error(folder / "train.log")) or "killed before it wrote a summary"]
    elif status == "running":
        reasons.append("it is still running, or was killed")
    elif summary.get("reason"):
        reasons.append(str(summary["reason"])[:500])
    settings: Settings = _tried(reasons, lambda: read_settings(folder), {})
    curves: dict[str, Curve] = _tried(reasons, lambda: read_curves(folder / "metrics.csv", npoints), {})
    if not curves and status == COMPLETED:
        reasons.append("no metrics.csv")
    images = images_digest(summary.get("data"))
    settings |= {"images": images} if settings and images else {}
    evaluations = read_evaluations(folder, reasons)
    seconds = summary.get("seconds")
    swept = str(summary.get("trial", ""))[:200]
    return RunRecord(
        name=f"{swept} ({name})" if swept and swept.isprintable() else name,
        folder=folder,
        status=status,
        reason="; ".join(dict.fromkeys(reason for reason in reasons if reason)),
        settings=settings,
        seed=str(summary.get("seed", settings.get("seed", "")))[:20],
        metrics=read_metrics(summary, evaluations),
        curves=curves,
        command=command(folder, summary),
        seconds=_number(seconds.get("total")) if isinstance(seconds, dict) else None,
        images_per_second=_number(summary.get("images_per_second")),
        provenance=provenance(summary),
        images=digests(summary),
        protocols={name: found.get("protocol", {}) for name, found in evaluations.items()},
    )


def read_settings(folder: Path) -> Settings:
    """Return a run's flattened config, from .hydra/config.yaml if it exists, else from the checkpoint.

    Raises:
        Unreadable: if the run has neither, or it cannot be read.
    """
    try:
        if is_there(folder / ".hydra" / "config.yaml"):
            return flat_settings(masked(read_yaml(folder / ".hydra" / "config.yaml")))
        if is_there(folder / "checkpoints" / "best.ckpt"):
            from vae_lab.runs.load import load_checkpoint  # importing torch takes seconds

            return flat_settings(masked(load_checkpoint(folder)["hyper_parameters"]))
    except (ValueError, RecursionError, DataError) as error:
        raise Unreadable("its settings cannot be read") from error
    raise Unreadable("its settings are unknown: .hydra/config.yaml is missing")


def read_metrics(summary: dict[str, Any], evaluations: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return a run's metrics by name: entries of the summary with a slash in the name, and evaluation results."""
    metrics = {str(key): float(value) for key, value in summary.items() if "/" in str(key) and is_number(value)}
    for name, found in evaluations.items():
        metrics |= {f"{name}/{key}": value for key, value in found["numbers"].items()}
    return metrics


def read_evaluations(folder: Path, reasons: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings ("protocol") and results ("numbers") of each evaluation, by the name of its file.

    Evaluations of weights that differ from the current checkpoint are skipped, and a reason is added.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in EVALUATIONS:
        try:
            content = read_json(folder / f"{name}.json")
            values = {key: value for key, value in numbers(content) if not key.startswith(("protocol.", "seconds"))}
        except (Unreadable, RecursionError):
            continue
        protocol = content.get("protocol")
        protocol = protocol if isinstance(protocol, dict) else {}
        now = file_digest(folder / "checkpoints" / f"{protocol.get('checkpoint') or 'best'}.ckpt")
        if now and protocol.get("weights") != now:
            reasons.append(f"{name}.json is for weights that differ from the checkpoint's and is ignored")
            continue
        found[name] = {"protocol": protocol, "numbers": values}
    return found


def digests(summary: dict[str, Any]) -> dict[str, str]:
    """Return the digest of the images of each split, by split, for those in the summary."""
    data = summary.get("data")
    found = {part: data.get(f"{part}_digest") for part in PARTS} if isinstance(data, dict) else {}
    return {part: str(value)[:100] for part, value in found.items() if value is not None}


def command(folder: Path, summary: dict[str, Any]) -> str:
    """Return the shell command that repeats a run; "" if it is unknown."""
    line = summary.get("command")
    if isinstance(line, str):
        return masked_line(line) if line.isprintable() else ""
    try:
        return command_line(read_overrides(folder / ".hydra" / "overrides.yaml"))
    except Unreadable:
        return ""


def masked_line(line: str) -> str:
    """Return a command line with secrets masked, also secrets that contain spaces."""
    try:
        words = shlex.split(line)
    except ValueError:
        return masked(line)
    return line if masked(words) == words else shlex.join(masked(words))


def provenance(summary: dict[str, Any]) -> dict[str, str]:
    """Return commit, device, precision, parameters, steps and versions of a run, as texts by name."""
    versions = summary.get("versions")
    named = {f"versions.{key}": value for key, value in versions.items()} if isinstance(versions, dict) else {}
    found = {key: summary.get(key) for key in ("commit", "device", "precision", "parameters", "steps")} | named
    return {key: str(value)[:100] for key, value in found.items() if value is not None}


def _tried(reasons: list[str], read: Any, otherwise: Any) -> Any:  # noqa: ANN401
    """Return what `read()` returns; if it raises Unreadable, note the reason in `reasons` and return `otherwise`."""
    try:
        return read()
    except Unreadable as error:
        if not str(error).startswith("no "):
            reasons.append(str(error))
        return otherwise


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None  # pyright: ignore[reportArgumentType]

"""The runs below a folder, complete or not, as records."""

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vae_lab.errors import DataError
from vae_lab.reporting.flat_config import ABSENT, Settings, flat_settings
from vae_lab.reporting.untrusted_files import (
    Curve,
    is_number,
    last_error,
    numbers,
    read_curves,
    read_overrides,
    read_yaml,
)
from vae_lab.runs.folder import command as command_line
from vae_lab.runs.identity import file_digest, images_digest
from vae_lab.system.masking import masked
from vae_lab.system.progress import track
from vae_lab.system.reading import Unreadable, is_there, read_json

log = logging.getLogger(__name__)

COMPLETED = "completed"
MARKS = (".hydra", "checkpoints", "metrics.csv", "summary.json")
"""What makes a folder a run; the first three alone keep us from looking for runs inside it."""
PARTS = ("train", "val", "test")
EVALUATIONS = tuple(f"evaluation-{part}" for part in PARTS)
"""Names of the files of evaluations, of which a run has one for each split."""
MAX_DEPTH = 8
NPOINTS = 20_000
"""Points of one curve, over all trials; with few trials at most 400 each."""


class RunRecord(NamedTuple):
    """One run, as far as it can be read.

    Attributes:
        name: its folder; of a sweep's trial the swept settings, and the folder in brackets.
        folder: where it lies.
        status: completed, or what its summary says; "unreadable" or "unfinished" without a usable summary.
        reason: why it has no result, or what could not be read of it.
        settings: its config, flat; empty if there is none.
        seed: as text; "" if unknown.
        metrics: test/…, val/…, and the numbers of evaluation-test.json as evaluation-test/…, and so for each split.
        curves: metrics.csv.
        command: the command line that repeats it; "" if unknown.
        seconds: from start to end.
        images_per_second: while training.
        provenance: commit, device and the like.
        images: the digest of each part of the images, by the part's name.
        protocols: how each evaluation was made, by the name of its file.
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
        """Return some of the settings; those that it has not are a dash."""
        return {key: self.settings.get(key, ABSENT) for key in keys}


def read_runs(roots: Sequence[Path]) -> list[RunRecord]:
    """Return the runs below the folders, those in `roots` themselves included, in the order of `roots`.

    Raises:
        DataError: if a folder is missing or holds no run.
        ValueError: if there is no folder.
    """
    if not roots:
        raise ValueError("runs= names no folder; it takes a run folder, a folder of runs, or a list of such.")
    folders: dict[Path, None] = {}
    for root in roots:
        if not root.is_dir():
            raise DataError(f"there is no folder {root.absolute()}; runs= takes a run folder or a folder of runs.")
        found = list(find_runs(root))
        if not found:
            raise DataError(f"{root.absolute()} holds no run; runs= takes a run folder or a folder of runs.")
        folders |= dict.fromkeys(folder.resolve() for folder in found)
    top = os.path.commonpath(folders) if len(folders) > 1 else str(next(iter(folders)).parent)
    npoints = max(40, min(400, NPOINTS // len(folders)))
    return [read_run(folder, os.path.relpath(folder, top), npoints) for folder in track(list(folders), "reading runs")]


def find_runs(root: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the run folders at and below a folder; a summary alone, with runs below it, is a sweep's."""
    try:
        is_run = any((root / mark).exists() for mark in MARKS[:3])
        has_summary = (root / "summary.json").exists()
        inside = [] if is_run or depth == MAX_DEPTH else root.iterdir()
        children = sorted(path for path in inside if path.is_dir() and not path.is_symlink())
    except OSError as error:
        log.warning("%s: %s; the report is without it", root, error.strerror)
        return
    below = [run for child in children for run in find_runs(child, depth + 1)]
    if is_run or (not below and has_summary):
        yield root
    yield from below


def read_run(folder: Path, name: str, npoints: int = 400) -> RunRecord:
    """Return a run; what cannot be read of it is told in its reason."""
    reasons: list[str] = []
    summary: dict[str, Any] = masked(_tried(reasons, lambda: read_json(folder / "summary.json"), {}))
    status = str(summary.get("status", "unreadable"))[:40]
    if not is_there(folder / "summary.json"):
        status, reasons = "unfinished", [masked(last_error(folder / "train.log")) or "killed before it wrote a summary"]
    elif status == "running":
        reasons.append("no end is written: it still runs, or was killed")
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
    """Return a run's config: Hydra's, or else the one in its checkpoint; empty if it has neither."""
    try:
        if is_there(folder / ".hydra" / "config.yaml"):
            return flat_settings(masked(read_yaml(folder / ".hydra" / "config.yaml")))
        if is_there(folder / "checkpoints" / "best.ckpt"):
            from vae_lab.runs.load import load_checkpoint  # torch takes seconds

            return flat_settings(masked(load_checkpoint(folder)["hyper_parameters"]))
    except (ValueError, RecursionError, DataError) as error:
        raise Unreadable("its settings cannot be read") from error
    raise Unreadable("its settings are not known: there is no .hydra/config.yaml")


def read_metrics(summary: dict[str, Any], evaluations: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return the numbers of a summary whose names have a slash, and those of the evaluations."""
    metrics = {str(key): float(value) for key, value in summary.items() if "/" in str(key) and is_number(value)}
    for name, found in evaluations.items():
        metrics |= {f"{name}/{key}": value for key, value in found["numbers"].items()}
    return metrics


def read_evaluations(folder: Path, reasons: list[str]) -> dict[str, dict[str, Any]]:
    """Return the protocol and the numbers of each split's evaluation, by its file's name.

    An evaluation of other weights than those that lie there now is left out, and the reason noted.
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
            reasons.append(f"{name}.json is of other weights than the run has now, and is left out")
            continue
        found[name] = {"protocol": protocol, "numbers": values}
    return found


def digests(summary: dict[str, Any]) -> dict[str, str]:
    """Return the digest of each part of the images that a run names."""
    data = summary.get("data")
    found = {part: data.get(f"{part}_digest") for part in PARTS} if isinstance(data, dict) else {}
    return {part: str(value)[:100] for part, value in found.items() if value is not None}


def command(folder: Path, summary: dict[str, Any]) -> str:
    """Return the command line that trains a run again, quoted for a shell; "" if its overrides are not known."""
    told = summary.get("command")
    if isinstance(told, str):
        return masked_line(told) if told.isprintable() else ""
    try:
        return command_line(read_overrides(folder / ".hydra" / "overrides.yaml"))
    except Unreadable:
        return ""


def masked_line(line: str) -> str:
    """Return a command line without secrets, those with blanks in them included."""
    try:
        words = shlex.split(line)
    except ValueError:
        return masked(line)
    return line if masked(words) == words else shlex.join(masked(words))


def provenance(summary: dict[str, Any]) -> dict[str, str]:
    """Return what a run was made of."""
    versions = summary.get("versions")
    named = {f"versions.{key}": value for key, value in versions.items()} if isinstance(versions, dict) else {}
    found = {key: summary.get(key) for key in ("commit", "device", "precision", "parameters", "steps")} | named
    return {key: str(value)[:100] for key, value in found.items() if value is not None}


def _tried(reasons: list[str], read: Any, otherwise: Any) -> Any:  # noqa: ANN401
    """Return what `read` returns, or else note why not."""
    try:
        return read()
    except Unreadable as error:
        if not str(error).startswith("no "):
            reasons.append(str(error))
        return otherwise


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None  # pyright: ignore[reportArgumentType]

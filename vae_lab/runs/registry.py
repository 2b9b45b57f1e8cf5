"""The command `runs` as functions: selection of runs, tables of them, and their removal."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vae_lab.errors import DataError
from vae_lab.runs.choice import choose_run
from vae_lab.runs.folder import SUMMARY
from vae_lab.runs.listing import LIVE, Run, inspect_run, list_runs, locked_by
from vae_lab.system.folders import expanded, seen_from_here
from vae_lab.system.locks import LOCK, hold
from vae_lab.system.masking import masked
from vae_lab.system.quoting import literal

WIDEST = 60
"""Maximum width of a column of a table."""
WIDTH = 120
"""Width of the lines of `show`."""


def select_runs(
    root: Path, named: Sequence[str] = (), tags: Iterable[str] = (), statuses: Sequence[str] = (), *, patience: float
) -> list[Run]:
    """Return the runs below a folder that are named and have all tags and one of the statuses, the last started first.

    Args:
        root: the folder.
        named: runs, folders of runs, or what `run=` takes of those below `root`; none for all runs.
        tags: tags of each run.
        statuses: the statuses; none for any.
        patience: seconds without a written file after which a run that is under way is stalled.

    Raises:
        DataError: if `root` is not a folder, or holds no run to choose from.
        ValueError: if a name stands for no run below `root`, or for several.
    """
    if not root.is_dir():
        raise DataError(f"root={root} is not a folder; name a folder of runs.")
    runs = list_runs(root, patience)
    if named:
        chosen = {run.folder for name in named for run in runs_named(name, runs, root)}
        runs = [run for run in runs if run.folder in chosen]
    wanted = {*map(str, tags)}
    return [run for run in runs if wanted <= {*run.tags} and (not statuses or run.status in statuses)]


def runs_named(name: str, runs: Sequence[Run], root: Path) -> list[Run]:
    """Return those of the runs below `root` that are at or below a path, or that `run=` chooses.

    Raises:
        ValueError: if there is none.
    """
    path = expanded(name)
    if not os.path.lexists(path):
        path = root / name if os.path.lexists(root / name) else choose_run(name, root) or path
    place = path.resolve()
    found = [run for run in runs if run.folder.resolve().is_relative_to(place)]
    if not found:
        raise ValueError(f"run={name} is no run below root={root}; python -m vae_lab.runs ls root={root} lists them.")
    return found


def table_row(run: Run, metric: str) -> dict[str, Any]:
    """Return what a table shows of a run, by column."""
    started, seconds = run.started, run.seconds
    return {
        "folder": str(seen_from_here(run.folder)),
        "name": run.name,
        "status": run.status,
        "started": started.isoformat(timespec="seconds") if started else "",
        "seconds": None if seconds is None else round(seconds, 1),
        metric: run.metrics.get(metric),
        "tags": run.tags,
        "notes": run.text("notes"),
        "reason": run.reason,
    }


def as_json(runs: Sequence[Run]) -> str:
    """Return runs as a JSON list; each has all of its metrics."""
    rows = [table_row(run, "metrics") | {"metrics": run.metrics} for run in runs]
    return json.dumps(masked(rows), indent=2)


def as_csv(runs: Sequence[Run], metric: str) -> str:
    """Return runs as a CSV table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [masked(table_row(run, metric)) for run in runs]
    writer.writerow(table_row(Run(Path(), "", "", {}), metric))
    for row in rows:
        cells = (",".join(value) if isinstance(value, list) else value for value in row.values())
        writer.writerow(literal(cell) if isinstance(cell, str) else cell for cell in cells)
    return text.getvalue().rstrip("\n")


def as_table(runs: Sequence[Run], metric: str) -> str:
    """Return runs as a table with aligned columns; columns without an entry are left out."""
    rows = [{name: cell(name, value) for name, value in masked(table_row(run, metric)).items()} for run in runs]
    order = ("started", "seconds", "status", metric, "name", "folder", "tags", "notes", "reason")
    columns = [name for name in order if any(row[name] for row in rows)]
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def cell(name: str, value: Any) -> str:  # noqa: ANN401
    """Return a value as text for a table; `folder` is never cut, because it is to be typed again."""
    if value is None:
        return ""
    if name == "started":
        return str(value)[:16].replace("T", " ")
    if name == "seconds":
        return duration(value)
    text = f"{value:.6g}" if isinstance(value, float) else ",".join(value) if isinstance(value, list) else str(value)
    return text if name == "folder" or len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def duration(seconds: float) -> str:
    """Return a duration as text, such as 45s, 12m or 3h20m."""
    if seconds < 100:
        return f"{seconds:.0f}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m"


def facts(run: Run) -> dict[str, Any]:
    """Return what is known of a run: its folder, state and size on disk, and the content of its summary."""
    state = {"folder": str(seen_from_here(run.folder)), "status": run.status, "reason": run.reason}
    state |= {"bytes": size(run.folder)}
    try:
        return masked(state | {key: value for key, value in run.summary.items() if key not in state})
    except RecursionError:  # nested a thousand times; vae_lab writes no such file
        return state | {"reason": f"{SUMMARY} is nested too deeply"}


def as_lines(run: Run) -> str:
    """Return what is known of a run as YAML."""
    return yaml.safe_dump(facts(run), sort_keys=False, allow_unicode=True, width=WIDTH).rstrip("\n")


def size(folder: Path) -> int:
    """Return the size of all files in a folder in bytes; links are not followed."""
    files = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files)


def remove_run(run: Run, root: Path, patience: float) -> str:
    """Remove a run folder below `root`, and return ""; return the reason if it is not removed.

    A link is never followed. The folder is locked meanwhile, so that no process starts to work in it.
    """
    folder, top = run.folder.resolve(), root.resolve()
    if folder == top or not folder.is_relative_to(top):
        return "it is not below root=; name a folder above it"
    now = inspect_run(folder, patience)
    if now.status in LIVE:
        return f"it is {now.status}: {now.reason}"
    inside = [lock.parent for lock in folder.rglob(LOCK) if locked_by(lock.parent) is not None]
    if inside:
        return f"a process works in {inside[0]}"
    try:
        if (folder / LOCK).is_symlink():  # locking would write to what it leads to
            (folder / LOCK).unlink()
        with hold(folder) as mine:
            if not mine:
                return "a process has just begun to work in it"
            (folder / SUMMARY).unlink(missing_ok=True)  # first, so that a removal cut short does not look like a run
            shutil.rmtree(folder)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return ""

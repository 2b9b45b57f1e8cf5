"""`python -m vae_lab.runs ls`: list, rank, show or remove runs.

python -m vae_lab.runs ls root=outputs tag=mnist
python -m vae_lab.runs best metric=val/neg_elbo
python -m vae_lab.runs show last
python -m vae_lab.runs rm tag=draft status=failed
"""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from vae_lab.cli.entry import command
from vae_lab.errors import FilesFailed, require_choice, require_count, require_number
from vae_lab.runs.choice import Order
from vae_lab.runs.listing import Run
from vae_lab.runs.metrics import caution, direction
from vae_lab.runs.registry import as_csv, as_json, as_lines, as_table, facts, remove_run, select_runs, size
from vae_lab.system.error_text import nearest
from vae_lab.system.folders import expanded, seen_from_here
from vae_lab.system.quoting import quote_text

log = logging.getLogger("vae_lab.runs")  # as a command, __name__ is __main__

ACTIONS = ("ls", "best", "show", "rm")
FORMATS = ("table", "csv", "json")


def as_settings(arguments: list[str]) -> list[str]:
    """Return a command line with action= and run= in place of the words `ls`, `show last` or `rm <run> <run>`."""
    nflags = next((i for i, text in enumerate(arguments) if text.startswith("-")), len(arguments))
    typed, flags = arguments[:nflags], arguments[nflags:]
    words = [text for text in typed if "=" not in text]
    action, runs = words[:1], words[1:]
    settings = [f"action={word}" for word in action]
    settings += [f"run=[{','.join(map(quote_text, runs))}]"] if runs else []
    return [*settings, *(text for text in typed if text not in words), *flags]


@command("runs", as_settings)
def main(cfg: DictConfig) -> None:
    """Print the runs below a folder, or what is known of some, or remove some."""
    require_choice("action", cfg.action, ACTIONS)
    require_choice("format", cfg.format, FORMATS)
    require_choice("mode", cfg.mode, ("min", "max"))
    require_count("n", cfg.n)
    require_number("stalled", cfg.stalled, "(0, inf)")
    named, tags, statuses = listed(cfg.run), listed(cfg.tag), listed(cfg.status)
    if cfg.action == "show" and not (named or tags or statuses):
        named = ["last"]
    if cfg.action == "rm" and not (named or tags or statuses):
        raise ValueError("rm removes no run by default; choose some with run=, tag= or status=.")
    root, patience = expanded(cfg.root), 60 * float(cfg.stalled)
    runs = select_runs(root, named, tags, statuses, patience=patience)
    if cfg.action == "rm":
        remove(runs, root, patience, cfg)
    elif cfg.action == "best":
        rank(runs, Order(cfg.metric, cfg.mode == "min"), cfg)
    elif cfg.action == "show":
        show(runs, cfg)
    else:
        put(runs, cfg)
        if cfg.format == "table":
            log.info("%d run%s in %s", len(runs), "" if len(runs) == 1 else "s", cfg.root)


def listed(setting: object) -> list[str]:
    """Return a setting as a list of strings: [] for null, a list of one for a single value."""
    return [] if setting is None else [*map(str, setting)] if isinstance(setting, ListConfig) else [str(setting)]


def put(runs: Sequence[Run], cfg: DictConfig) -> None:
    """Print runs in the chosen format."""
    if cfg.format == "json":
        log.info("%s", as_json(runs))
    elif cfg.format == "csv":
        log.info("%s", as_csv(runs, cfg.metric))
    elif runs:
        log.info("%s", as_table(runs, cfg.metric))


def rank(runs: Sequence[Run], order: Order, cfg: DictConfig) -> None:
    """Print the best runs of each set of images.

    Raises:
        ValueError: if no completed run has the metric.
    """
    groups = order.groups(runs)
    if not groups:
        near = nearest(cfg.metric, sorted({name for run in runs for name in run.metrics}), 3)
        remedy = f"; choose one such as {near}" if near else ""
        raise ValueError(f"none of the {len(runs)} runs is completed and has metric={cfg.metric}{remedy}.")
    if cfg.format != "table":
        put([run for group in groups for run in group[: cfg.n]], cfg)
        return
    for group in groups:
        put(group[: cfg.n], cfg)
        best, others = seen_from_here(group[0].folder), f" on the same images, of {len(groups)} sets"
        line = "best of %d%s by %s, %s: run=%s"
        log.info(line, len(group), others * (len(groups) > 1), order.metric, direction(lowest=order.lowest), best)
    if caution(order.metric):
        log.warning("%s", caution(order.metric))


def show(runs: Sequence[Run], cfg: DictConfig) -> None:
    """Print all that is known of runs."""
    if cfg.format == "table":
        log.info("%s", "\n\n".join(map(as_lines, runs)))
    elif cfg.format == "json":
        log.info("%s", json.dumps([facts(run) for run in runs], indent=2))
    else:
        put(runs, cfg)


def remove(runs: Sequence[Run], root: Path, patience: float, cfg: DictConfig) -> None:
    """Remove runs, after a question unless `yes` is set.

    Raises:
        FilesFailed: if a run was not removed.
        ValueError: if nobody can answer.
    """
    if not runs:
        log.info("no run in %s is chosen", root)
        return
    if not cfg.yes and not sys.stdin.isatty():
        raise ValueError("rm asks before it removes runs, and nobody can answer here; type yes=true.")
    log.info("%s", as_table(runs, cfg.metric))
    megabytes = sum(size(run.folder) for run in runs) / 1e6
    if not cfg.yes and not agrees(f"Remove these {len(runs)}, {megabytes:.1f} MB? [y/N] "):
        log.info("nothing was removed")
        return
    kept: list[str] = []
    for run in runs:
        reason = remove_run(run, root, patience)
        if reason:
            kept.append(f"{seen_from_here(run.folder)}: {reason}")
        else:
            log.info("removed %s", seen_from_here(run.folder))
    if kept:
        raise FilesFailed("\n".join([f"{len(kept)} of {len(runs)} runs were not removed:", *kept]))


def agrees(question: str) -> bool:
    """Return whether the user answers a question with yes."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


if __name__ == "__main__":
    main()

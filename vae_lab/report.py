"""`python -m vae_lab.report runs=<folder>`: many runs, or two, on one page that works offline."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.commands import command

log = logging.getLogger("vae_lab.report")  # __main__, as a command, is no part of vae_lab


@command("report")
def main(cfg: DictConfig) -> None:
    """Write report.html, report.csv and report.md."""
    from vae_lab.reporting.writing import write_report

    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # pyright: ignore[reportAssignmentType]
    named, out = settings.pop("runs"), settings.pop("out")
    runs = [Path(str(run)).expanduser() for run in (named if isinstance(named, list) else [named])]
    if out is None:
        out = runs[0] if len(runs) == 1 else "report"
    report = write_report(runs, Path(str(out)).expanduser(), **settings)
    failed = sum(trial.status != "completed" for trial in report.trials)
    for sentence in report.sentences:
        log.info("%s", sentence)
    log.info("%d runs, %d without a result: %s", len(report.trials), failed, Path(str(out)).absolute())


if __name__ == "__main__":
    main()

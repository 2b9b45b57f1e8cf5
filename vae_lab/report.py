"""`python -m vae_lab.report runs=<folder>`: compare runs on one HTML page that works offline."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command
from vae_lab.system.folders import expanded

log = logging.getLogger("vae_lab.report")  # __name__ is __main__ when run as a command


@command("report")
def main(cfg: DictConfig) -> None:
    """Write the comparison of the runs as report.html, report.csv and report.md."""
    from vae_lab.reporting.write import encodable, page_path, write_report
    from vae_lab.runs.folder import find_run
    from vae_lab.runs.metrics import caution
    from vae_lab.system.atomic import expand_wildcards

    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # pyright: ignore[reportAssignmentType]
    runs = expand_wildcards([find_run(run, several=True) for run in listed(settings.pop("runs"))], "runs")
    out = settings.pop("out")
    settings["ignored"] = listed(settings["ignored"])
    if out is None:
        out = runs[0] if len(runs) == 1 else "report"
    report = write_report(runs, expanded(out), **settings)
    failed = sum(trial.status != "completed" for trial in report.trials)
    for sentence in report.sentences:
        log.log(logging.WARNING if sentence == caution(report.metric) else logging.INFO, "%s", encodable(sentence))
    page = page_path(Path(str(out)).absolute())
    log.info("%d runs, %d without a result: %s", len(report.trials), failed, encodable(str(page)))


def listed(setting: object) -> list[str]:
    """Return a setting as a list of strings: [] for null, a list of one for a single string."""
    if setting is None:
        return []
    return [str(text) for text in setting] if isinstance(setting, list) else [str(setting)]


if __name__ == "__main__":
    main()

"""`python -m vae_lab.evaluate run=<run folder> [split=test] [nsamples=5000]`: what a trained model is worth."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from vae_lab.commands import command

log = logging.getLogger("vae_lab.evaluate")  # __main__, as a command, is no part of vae_lab


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Write evaluation-<split>.json and .html."""
    from vae_lab.assessment import assess, file_name, headline  # torch and Lightning take seconds
    from vae_lab.runs import locate

    settings: dict[str, object] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    run, data, out = Path(str(settings.pop("run"))).expanduser(), settings.pop("data"), settings.pop("out")
    folder = locate(run, cfg.checkpoint).folder if out is None else Path(str(out)).expanduser()
    result = assess(run, folder, root=data["root"], **settings)  # pyright: ignore[reportIndexIssue, reportArgumentType]
    for line in headline(result):
        log.info("%s", line)
    log.info("%s.json and .html", folder / file_name(cfg.split))


if __name__ == "__main__":
    main()

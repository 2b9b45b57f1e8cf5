"""`python -m vae_lab.evaluate run=<run folder>`: measure a model's likelihood, samples and reconstructions."""

import logging

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads
from vae_lab.system.folders import expanded

log = logging.getLogger("vae_lab.evaluate")  # as a command, __name__ is __main__


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate a run and write evaluation-<split>.json and evaluation-<split>.html."""
    from vae_lab.evaluation.headline import headline
    from vae_lab.evaluation.run import evaluate_run, file_name  # torch and Lightning take seconds
    from vae_lab.runs.folder import locate

    settle_threads(cfg)
    settings: dict[str, object] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    del settings["threads"]
    run, data, out = expanded(settings.pop("run")), settings.pop("data"), settings.pop("out")
    folder = locate(run, cfg.checkpoint).folder if out is None else expanded(out)
    result = evaluate_run(run, folder, root=data["root"], **settings)  # pyright: ignore[reportIndexIssue, reportArgumentType]
    for line in headline(result):
        log.info("%s", line)
    log.info("%s.json and .html", folder / file_name(cfg.split))


if __name__ == "__main__":
    main()

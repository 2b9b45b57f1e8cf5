"""`python -m vae_lab.evaluate run=<run folder>`: measure a model's likelihood, samples and reconstructions.

`python -m vae_lab.evaluate images=<folder or run> against=<folder or run>`: compare two sets of images.
"""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads
from vae_lab.system.folders import expanded

log = logging.getLogger("vae_lab.evaluate")  # as a command, __name__ is __main__


UNUSED = ("split", "nsamples", "nll_images", "nbound", "chunk", "nreference", "side", "samplers")
"""Settings that a comparison of two sets of images does not have."""


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate a run, or compare two sets of images, and write the numbers as JSON and as an HTML page."""
    pair = (cfg.images, cfg.against)
    if (cfg.run is None) == (pair == (None, None)) or (cfg.run is None and None in pair):
        raise ValueError(
            "evaluate needs either run=, a run folder, or both images= and against=, two folders of images or runs;"
            f" given are {', '.join(f'{key}={cfg[key]}' for key in ('run', 'images', 'against'))}."
        )
    settle_threads(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    del settings["threads"]
    run, images, against, out = (settings.pop(name) for name in ("run", "images", "against", "out"))
    settings["root"] = settings.pop("data")["root"]
    if run is None:
        compare_images(images, against, out, {key: value for key, value in settings.items() if key not in UNUSED})
    else:
        del settings["image_size"]
        measure_run(run, out, settings)


def measure_run(run: str, out: str | None, settings: dict[str, Any]) -> None:
    """Evaluate a run and log the headline."""
    from vae_lab.evaluation.headline import headline
    from vae_lab.evaluation.run import evaluate_run, file_name  # torch and Lightning take seconds
    from vae_lab.runs.folder import find_run, locate

    path = find_run(run)
    folder = locate(path, settings["checkpoint"]).folder if out is None else expanded(out)
    result = evaluate_run(path, folder, **settings)
    for line in headline(result):
        log.info("%s", line)
    log.info("%s.json and .html", folder / file_name(settings["split"]))


def compare_images(images: str, against: str, out: str | None, settings: dict[str, Any]) -> None:
    """Compare two sets of images and log a table of the metrics."""
    from vae_lab.evaluation.folders import NAME, compare_folders, describe_comparison, report_bad
    from vae_lab.runs.folder import find_run

    folder = Path() if out is None else expanded(out)
    first, second = (find_run(one, several=True) for one in (images, against))
    result = compare_folders(first, second, folder, **settings)
    for name, value in describe_comparison(result):
        log.info("%-32s %s", name, value)
    log.info("%s.json, .html and .png", folder / NAME)
    report_bad(result)


if __name__ == "__main__":
    main()

"""`python -m vae_lab.detect run=<run folder> images=<folder or files>`: score how unusual images are, with p-values."""

import logging
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads

log = logging.getLogger("vae_lab.detect")  # as a command, __name__ is __main__


@command("detect")
def main(cfg: DictConfig) -> None:
    """Write a table of scores and p-values, a contact sheet, and heat maps of the flagged images."""
    from vae_lab.detection.score_folder import score_folder  # torch takes seconds

    settle_threads(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    del settings["threads"]
    score_folder(**{key: value for key, value in settings.items() if key != "data"}, root=settings["data"]["root"])


if __name__ == "__main__":
    main()

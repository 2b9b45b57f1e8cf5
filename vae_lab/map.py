"""`python -m vae_lab.map run=<run folder>`: draw a map of the latents of images, to be opened in a browser."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("map")
def main(cfg: DictConfig) -> None:
    """Write a page, or a picture, on which each image is a point."""
    from vae_lab.detection.calibration import make_unfitted_score  # torch takes seconds
    from vae_lab.latents.mapping import map_latents

    settle_threads(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    score, which, root = settings.pop("score"), settings.pop("class"), settings.pop("data")["root"]
    del settings["threads"]
    scored = cfg.color == "score" and cfg.labels is None
    map_latents(**settings, which=which, root=root, score=make_unfitted_score(score) if scored else None)


if __name__ == "__main__":
    main()

"""`python -m vae_lab.encode run=<run folder> images=<folder or files>`: write the latents of images as a table."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("encode")
def main(cfg: DictConfig) -> None:
    """Write the posterior mean, the log sigma and the score of each image file as CSV, Parquet or NPZ."""
    from vae_lab.detection.calibration import make_unfitted_score  # torch takes seconds
    from vae_lab.latents.folder import encode_folder

    settle_threads(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    score, scored = settings.pop("score"), settings.pop("scored")
    del settings["threads"]
    which = settings.pop("class")
    encode_folder(**settings, which=which, score=make_unfitted_score(score) if scored else None)


if __name__ == "__main__":
    main()

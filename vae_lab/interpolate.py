"""`python -m vae_lab.interpolate run=<run folder> images=[a.png,b.png]`: decode images on a path between two pictures.

Pictures of an earlier call are replaced. For a conditional model, class=<name or number> is that of the pictures.
"""

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("interpolate")
def main(cfg: DictConfig) -> None:
    """Write the images in a row and, if `out` is a folder, a PNG of each."""
    from vae_lab.latents.picture_files import Settings, interpolate_files  # torch takes seconds

    settle_threads(cfg)
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    common = Settings(*(settings[name] for name in ("run", "images", "out", "class", "checkpoint", "trust")))
    interpolate_files(common, n=cfg.n, path=cfg.path)


if __name__ == "__main__":
    main()

"""`python -m vae_lab.traverse run=<run folder> images=a.png`: move latents, or attributes, of your own pictures.

Pictures of an earlier call are replaced. For a conditional model, class=<name or number> is that of the pictures.
"""

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("traverse")
def main(cfg: DictConfig) -> None:
    """Write the images in rows and, if `out` is a folder, a PNG of each."""
    from vae_lab.latents.picture_files import Settings, traverse_files  # torch takes seconds

    settle_threads(cfg)
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    common = Settings(*(settings[name] for name in ("run", "images", "out", "class", "checkpoint", "trust")))
    traverse_files(common, n=cfg.n, nlatents=cfg.nlatents, reach=cfg.reach, direction=cfg.direction)


if __name__ == "__main__":
    main()

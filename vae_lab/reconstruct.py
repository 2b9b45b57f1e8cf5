"""`python -m vae_lab.reconstruct run=<run folder> images=<folder or files>`: reconstruct your own pictures.

Pictures of an earlier call are replaced. For a conditional model, class=<name or number> is that of the pictures.
"""

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("reconstruct")
def main(cfg: DictConfig) -> None:
    """Write the pictures above their reconstructions and, if `out` is a folder, a PNG of each reconstruction."""
    from vae_lab.latents.picture_files import Settings, reconstruct_files  # torch takes seconds

    settle_threads(cfg)
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    common = Settings(*(settings[name] for name in ("run", "images", "out", "class", "checkpoint", "trust")))
    reconstruct_files(common, nshown=cfg.nshown)


if __name__ == "__main__":
    main()

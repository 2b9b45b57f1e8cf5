"""`python -m vae_lab.explore run=<run folder>`: open a page in the browser to walk through the latents of a model.

The page is served on the loopback address alone, until Ctrl-C. `out=page.html` writes a page without a server instead.
"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("explore")
def main(cfg: DictConfig) -> None:
    """Serve the page of a run until a signal ends it, or write a page that needs no server."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    if cfg.out is not None:
        write(cfg, settings)
        return
    from vae_lab.exploring.server import free_port, require_streamlit, serve

    require_streamlit()
    port = free_port(cfg.port)
    from vae_lab.detection.calibration import Calibration  # torch takes seconds
    from vae_lab.exploring.explored import Explored

    settle_threads(cfg)
    names = ("checkpoint", "ncalibration", "nfit", "trust")
    how = Calibration(**{name: settings[name] for name in names}, root=settings["data"]["root"])
    serve(Explored(settings["run"], settings["score"], how), port, browser=cfg.browser)


def write(cfg: DictConfig, settings: dict[str, Any]) -> None:
    """Write the page that needs no server."""
    if cfg.port is not None or cfg.data.root is not None:
        raise ValueError(f"out={cfg.out} writes a page that needs no server; leave port and data.root out.")
    from vae_lab.exporting.page import write_page
    from vae_lab.runs.folder import find_run

    settle_threads(cfg)
    write_page(find_run(settings["run"]), cfg.out, checkpoint=cfg.checkpoint, trust=settings["trust"])


if __name__ == "__main__":
    main()

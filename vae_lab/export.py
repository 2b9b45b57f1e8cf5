"""`python -m vae_lab.export run=<run folder> to=onnx`: write a model as files that other programs run."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads


@command("export")
def main(cfg: DictConfig) -> None:
    """Write a model as ONNX files, as programs of torch.export, or as a folder for the Hugging Face Hub."""
    from vae_lab.exporting.hub import share_run  # torch takes seconds
    from vae_lab.exporting.run import export_run
    from vae_lab.runs.folder import find_run

    settle_threads(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    run, out, hub = find_run(settings.pop("run")), settings.pop("out"), settings.pop("hub")
    shared = {key: settings[key] for key in ("checkpoint", "tolerance", "trust")}
    if cfg.to == "hub":
        share_run(run, out, **shared, **hub)
        return
    if hub["push"] is not None:
        raise ValueError(f"hub.push={hub['push']} uploads a Hub folder; choose to=hub, not to={cfg.to}.")
    export_run(run, out, to=cfg.to, score=settings["score"], **shared)


if __name__ == "__main__":
    main()

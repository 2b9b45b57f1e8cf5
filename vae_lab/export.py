"""`python -m vae_lab.export run=<run folder> to=onnx`: write a model as files that other programs run."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from vae_lab.cli.entry import command, settle_threads
from vae_lab.system.folders import expanded


@command("export")
def main(cfg: DictConfig) -> None:
    """Write encoder, decoder and score as ONNX files or programs of torch.export."""
    from vae_lab.exporting.run import export_run  # torch takes seconds

    settle_threads(cfg)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # pyright: ignore[reportAssignmentType]
    del settings["threads"]
    export_run(expanded(settings.pop("run")), settings.pop("out"), **settings)


if __name__ == "__main__":
    main()

"""`python -m vae_lab.generate run=<run folder>`: decode images from new latents.

Example: `python -m vae_lab.generate run=<run folder> n=64 seed=0 sampler=prior out=<folder or .png>`.

For a conditional model, classes are drawn in proportion to the training images. class=<name or number> selects one
class, and class=all writes a row of n images for each class. Names take precedence over numbers.
"""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vae_lab.cli.entry import command, settle_threads
from vae_lab.errors import require_count, require_number
from vae_lab.sampling.images import (
    EVERY,
    class_folders,
    class_number,
    generate_images,
    read_classes,
    save_images,
    warn_of_untrained_classes,
)
from vae_lab.system.folders import expanded, require_writable

log = logging.getLogger("vae_lab.generate")  # __name__ is __main__ when run as a command


@command("generate")
def main(cfg: DictConfig) -> None:
    """Write a grid of generated images and, if `out` is a folder, a PNG for each image."""
    from vae_lab.runs.folder import find_run, locate
    from vae_lab.runs.load import load_model
    from vae_lab.runs.manifest import put_pictures, require_room
    from vae_lab.sampling.store import load_sampler
    from vae_lab.system.atomic import require_folder_name

    run = find_run(cfg.run)
    out = locate(run, cfg.checkpoint).folder / "generated" if cfg.out is None else expanded(cfg.out)
    require_folder_name(out, ".png")
    if out.suffix.lower() != ".png" and out.is_file():
        raise ValueError(f"out={out} is a file, but not a .png; choose a folder or a .png.")
    require_count("n", cfg.n)
    require_count("batch_size", cfg.batch_size)
    require_number("temperature", cfg.temperature, "(0, inf)")
    require_writable(out.parent if out.suffix.lower() == ".png" else out)
    made_of = describe_pictures(cfg, run)
    require_room(out, made_of, replace=HydraConfig.get().mode != RunMode.MULTIRUN)
    settle_threads(cfg)
    model = load_model(run, cfg.checkpoint, trust=cfg.trust)
    names, counts = read_classes(run, cfg.checkpoint)
    which = class_number(model, cfg["class"], names)
    warn_of_untrained_classes(model, which, names, counts)
    sampler = load_sampler(run, model, cfg.sampler, checkpoint=cfg.checkpoint, root=cfg.data.root, trust=cfg.trust)
    drawn_from = None if cfg.sampler == "prior" else sampler
    labels: list[int] = []
    images = generate_images(
        model, cfg.n, cfg.seed, cfg.batch_size, drawn_from,
        temperature=float(cfg.temperature), which=which, counts=counts, drawn=labels,
    )  # fmt: skip
    nrow, folders = cfg.n if which == EVERY else None, class_folders(names, model.nclasses)
    put_pictures(
        out, made_of, lambda aside: save_images(images, aside, nrow, folders), labels if model.nclasses else []
    )
    log.info("%d images from %s in %s", len(images), run, out)


def describe_pictures(cfg: DictConfig, run: Path) -> dict[str, object]:
    """Return everything that determines the generated images: the run, its weights, the settings and the version."""
    from vae_lab.runs.folder import locate
    from vae_lab.runs.load import weights_digest
    from vae_lab.runs.provenance import versions

    folder, checkpoint = locate(run, cfg.checkpoint)
    settings = {key: cfg[key] for key in ("seed", "n", "sampler", "temperature", "class")}
    weights = {"run": str(folder), "checkpoint": checkpoint, "weights": weights_digest(run, checkpoint)}
    return {**weights, **settings, "vae_lab": versions().get("vae_lab")}


if __name__ == "__main__":
    main()

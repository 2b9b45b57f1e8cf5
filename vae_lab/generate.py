"""`python -m vae_lab.generate run=<run folder>`: decode images from new latents.

As in `python -m vae_lab.generate run=<run folder> n=64 seed=0 sampler=prior out=<folder or .png>`.

A conditional model draws each image's class too, as often as the training images have it, or is told it: class=<its
name>, class=<its number>, or class=all for a row of n images each. A name that there is wins over a number.
"""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vae_lab.cli.entry import command, settle_threads
from vae_lab.errors import require_count
from vae_lab.sampling.images import (
    EVERY,
    class_counts,
    class_folders,
    class_names,
    class_number,
    generate_images,
    save_images,
    warn_of_idle,
)
from vae_lab.system.folders import expanded, require_writable

log = logging.getLogger("vae_lab.generate")  # __main__, as a command, is no part of vae_lab


@command("generate")
def main(cfg: DictConfig) -> None:
    """Write a grid of samples and, if `out` is a folder, a PNG for each."""
    from vae_lab.runs.folder import locate
    from vae_lab.runs.load import load_model
    from vae_lab.runs.manifest import put_pictures, require_room
    from vae_lab.sampling.mixture import load_sampler
    from vae_lab.system.atomic import require_folder_name

    run = expanded(cfg.run)
    out = locate(run, cfg.checkpoint).folder / "generated" if cfg.out is None else expanded(cfg.out)
    require_folder_name(out, ".png")
    if out.suffix.lower() != ".png" and out.is_file():
        raise ValueError(f"out={out} is a file that is no .png; name a folder or a .png.")
    require_count("n", cfg.n)
    require_count("batch_size", cfg.batch_size)
    require_writable(out.parent if out.suffix.lower() == ".png" else out)
    made_of = described(cfg, run)
    require_room(out, made_of, replace=HydraConfig.get().mode != RunMode.MULTIRUN)
    settle_threads(cfg)
    model = load_model(run, cfg.checkpoint, trust=cfg.trust)
    names, counts = class_names(run, cfg.checkpoint), class_counts(run, cfg.checkpoint)
    which = class_number(model, cfg["class"], names)
    warn_of_idle(model, which, names, counts)
    sampler = load_sampler(run, model, cfg.sampler, checkpoint=cfg.checkpoint, root=cfg.data.root, trust=cfg.trust)
    drawn_from = None if cfg.sampler == "prior" else sampler
    labels: list[int] = []
    images = generate_images(
        model, cfg.n, cfg.seed, cfg.batch_size, drawn_from, which=which, counts=counts, drawn=labels
    )
    nrow, folders = cfg.n if which == EVERY else None, class_folders(names, model.nclasses)
    put_pictures(
        out, made_of, lambda aside: save_images(images, aside, nrow, folders), labels if model.nclasses else []
    )
    log.info("%d images from %s in %s", len(images), run, out)


def described(cfg: DictConfig, run: Path) -> dict[str, object]:
    """Return what decides the pictures of a call: the run with its weights, and what is drawn."""
    from vae_lab.runs.folder import locate
    from vae_lab.runs.load import weights_digest
    from vae_lab.runs.provenance import versions

    folder, checkpoint = locate(run, cfg.checkpoint)
    drawn = {key: cfg[key] for key in ("seed", "n", "sampler", "class")}
    made_of: dict[str, object] = {
        "run": str(folder),
        "checkpoint": checkpoint,
        "weights": weights_digest(run, checkpoint),
    }
    return made_of | drawn | {"vae_lab": versions().get("vae_lab")}


if __name__ == "__main__":
    main()

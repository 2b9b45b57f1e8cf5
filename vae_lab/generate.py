"""`python -m vae_lab.generate run=<run folder> n=64 seed=0 sampler=prior out=<folder or .png>`: decode new latents."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from vae_lab.commands import command
from vae_lab.errors import require_counts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from torch.distributions import Distribution

    from vae_lab.models.vae import LatentModel

log = logging.getLogger("vae_lab.generate")  # __main__, as a command, is no part of vae_lab


@command("generate")
def main(cfg: DictConfig) -> None:
    """Write a grid of samples and, if `out` is a folder, a PNG for each."""
    from vae_lab.runs import load_model, locate
    from vae_lab.samplers import load_sampler

    run = Path(str(cfg.run)).expanduser()
    out = locate(run, cfg.checkpoint).folder / "generated" if cfg.out is None else Path(str(cfg.out)).expanduser()
    if out.suffix.lower() != ".png" and out.is_file():
        raise ValueError(f"out={out} is a file that is no .png; name a folder or a .png.")
    require_counts(n=cfg.n, batch_size=cfg.batch_size)
    model = load_model(run, cfg.checkpoint)
    sampler = load_sampler(run, model, cfg.sampler, checkpoint=cfg.checkpoint, root=cfg.data.root)
    images = sample(model, cfg.n, cfg.seed, cfg.batch_size, None if cfg.sampler == "prior" else sampler)
    save(images, out)
    log.info("%d images from %s in %s", len(images), run, out)


def sample(
    model: "LatentModel", n: int, seed: int, batch_size: int = 64, sampler: "Distribution | None" = None
) -> "Float[Tensor, 'n channels height width']":
    """Return the mean images of `n` latents; image i depends on the seed and on i alone.

    The decoder runs in double precision: in single precision an image's last bits depend on how many are decoded beside
    it, which shows in about ten pixels of a million after rounding to 8 bits.

    Args:
        model: decodes; it is left in double precision.
        n: number of images.
        seed: of the latents.
        batch_size: images decoded at once.
        sampler: what the latents are drawn from; None is the model's prior.

    Raises:
        ValueError: if `n` or `batch_size` is below 1.
    """
    import torch

    from vae_lab.randomness import seeded

    require_counts(n=n, batch_size=batch_size)
    model = model.double()
    latents = []
    with torch.no_grad():
        density = model.prior() if sampler is None else sampler
        for i in range(n):
            with seeded("generate", seed, i):
                latents.append(density.sample().double())
        return torch.cat([model.generative(z).mean for z in torch.stack(latents).split(batch_size)])


def save(images: "Float[Tensor, 'n channels height width']", out: Path) -> None:
    """Write a grid to `out` if it is a .png, else a grid and single PNGs into it."""
    from vae_lab.evaluation.figures import grid, to_uint8
    from vae_lab.files import write_png

    picture = grid(images, max(1, round(len(images) ** 0.5)))
    if out.suffix.lower() == ".png":
        write_png(out, picture)
        return
    write_png(out / "grid.png", picture)
    for i, image in enumerate(images):
        write_png(out / f"{i:05d}.png", to_uint8(image))


if __name__ == "__main__":
    main()

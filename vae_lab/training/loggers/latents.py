"""Latents with their images, for loggers that have a view for them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from pathlib import Path

from jaxtyping import Float, UInt8
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from vae_lab.data.files.listing import printable

NAME = "latents/images"
MAX_COLUMNS = 64
"""Maximum number of latents in a table of W&B: those with the largest KL."""


@singledispatch
def log_latents(  # noqa: PLR0917
    logger: Logger,
    means: Float[Tensor, "n nlatent"],
    rates: Float[Tensor, " nlatent"],
    classes: Sequence[str],
    pixels: UInt8[Tensor, "n channels height width"],
    step: int,
) -> None:
    """Send latents with their images to a logger with a view for them; others get nothing.

    Args:
        logger: any logger.
        means: posterior means of images.
        rates: KL to the prior of each latent.
        classes: names of the images' classes, "" for images without one.
        pixels: the images, of equal height and width.
        step: optimizer steps taken.
    """


@log_latents.register(WandbLogger)
def _(logger: WandbLogger, means, rates, classes, pixels, step) -> None:  # noqa: ANN001, PLR0917
    import wandb  # takes half a second

    run = logger.experiment
    if run.disabled:
        return
    order = rates.argsort(descending=True)[:MAX_COLUMNS]
    columns: list[str | int] = ["image", "class", *(f"latent {k} (KL {rates[k]:.2f})" for k in order.tolist())]
    images = [wandb.Image(image.permute(1, 2, 0).numpy()) for image in pixels]
    rows = [[image, name, *z] for image, name, z in zip(images, classes, means[:, order].tolist(), strict=True)]
    with stored_below(Path(run.dir).parent):
        logger.log_metrics({NAME: wandb.Table(columns=columns, data=rows)}, step=step)  # pyright: ignore[reportArgumentType]


@log_latents.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, means, rates, classes, pixels, step) -> None:  # noqa: ANN001, ARG001, PLR0917
    names, images = [printable(name) or "no class" for name in classes], pixels.float() / 255
    logger.experiment.add_embedding(means, names, images, global_step=step, tag=NAME.replace("/", "-"))


@contextmanager
def stored_below(folder: Path) -> Iterator[None]:
    """Make W&B copy the files of an artifact to a folder until they are uploaded, in place of the user's data folder.

    An offline run would leave hundreds of files there that nothing removes. No setting of W&B names the place.
    """
    name = "WANDB_DATA_DIR"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(folder))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]

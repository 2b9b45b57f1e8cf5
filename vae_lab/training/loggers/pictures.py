"""Logging images and histograms to Lightning loggers."""

from functools import singledispatch

import numpy as np
import torch
from jaxtyping import UInt8
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

Picture = UInt8[Tensor, "channels height width"]


@singledispatch
def log_image(logger: Logger, name: str, picture: Picture, step: int) -> None:
    """Send an image to a logger with a method `log_image` like that of Lightning's WandbLogger.

    Register other loggers with `@log_image.register(TheirClass)`.

    Args:
        logger: a logger for which `takes_images` is true.
        name: name of the image, the same at every step.
        picture: grey or colour image.
        step: optimizer steps taken.
    """
    logger.log_image(name, [_pixels(picture)], step=step)  # pyright: ignore[reportAttributeAccessIssue]


@log_image.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, name: str, picture: Picture, step: int) -> None:
    logger.experiment.add_image(name, _pixels(picture), step, dataformats="HWC")


@log_image.register(MLFlowLogger)
def _(logger: MLFlowLogger, name: str, picture: Picture, step: int) -> None:
    logger.experiment.log_image(str(logger.run_id), _pixels(picture), key=name, step=step)


@singledispatch
def log_histogram(logger: Logger, name: str, heights: np.ndarray, edges: np.ndarray, step: int) -> None:
    """Send a histogram to a logger, as an image if the logger does not support histograms.

    Args:
        logger: a logger for which `takes_images` is true.
        name: name of the histogram, the same at every step.
        heights: heights of the n bars.
        edges: n + 1 edges of the bars.
        step: optimizer steps taken.
    """
    log_image(logger, name, drawn_bars(name, heights, edges), step)


@log_histogram.register(WandbLogger)
def _(logger: WandbLogger, name: str, heights: np.ndarray, edges: np.ndarray, step: int) -> None:
    import wandb  # takes half a second

    logger.log_metrics({name: wandb.Histogram(np_histogram=(heights, edges))}, step=step)  # pyright: ignore[reportArgumentType]


@log_histogram.register(TensorBoardLogger)
def _(logger: TensorBoardLogger, name: str, heights: np.ndarray, edges: np.ndarray, step: int) -> None:
    middles = (edges[1:] + edges[:-1]) / 2
    logger.experiment.add_histogram_raw(
        name,
        min=float(edges[0]),
        max=float(edges[-1]),
        num=float(heights.sum()),
        sum=float(heights @ middles),
        sum_squares=float(heights @ middles**2),
        bucket_limits=edges[1:].tolist(),
        bucket_counts=heights.tolist(),
        global_step=step,
    )


def takes_images(logger: Logger) -> bool:
    """Return whether `log_image` supports this logger."""
    return hasattr(logger, "log_image") or log_image.dispatch(type(logger)) is not log_image.dispatch(object)


def drawn_bars(title: str, heights: np.ndarray, edges: np.ndarray) -> UInt8[Tensor, "3 height width"]:
    """Return a histogram drawn as an RGB image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes half a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    figure.subplots().stairs(heights, edges, fill=True)
    figure.suptitle(title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[:, :, :3].copy()).permute(2, 0, 1)


def _pixels(picture: Picture) -> np.ndarray:
    """Return an image as uint8 [height, width, channels], because W&B shows float images as black."""
    return picture.permute(1, 2, 0).numpy()

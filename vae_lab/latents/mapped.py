"""The images of a map: their latents, classes, scores and thumbnails."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from vae_lab.data.datamodule import ImageData
from vae_lab.data.files.listing import Bad, Found
from vae_lab.data.grids import thumbnails
from vae_lab.errors import DataError
from vae_lab.latents.folder import Classes, Score, block_size, describe_pixels, encode_blocks
from vae_lab.latents.tables import Block
from vae_lab.probability.latent_model import LatentModel
from vae_lab.sampling.images import class_label
from vae_lab.system.progress import track
from vae_lab.system.randomness import seeded


class Encoded(NamedTuple):
    """The images that could be encoded, with thumbnails in place of their pixels, and the files that could not."""

    block: Block
    bad: list[Bad]


def choose_rows(total: int, n: int, seed: int) -> list[int]:
    """Return `n` different numbers below `total` in their order, drawn at random; all if there are at most `n`."""
    with seeded("map", seed):
        return sorted(torch.randperm(total)[:n].tolist())


def encode_validation(model: LatentModel, data: ImageData, rows: list[int], score: Score | None) -> Encoded:
    """Return validation images of a run, named by their numbers."""
    images, blocks = data.splits.val, []
    for part in track(torch.tensor(rows).split(block_size(model)), "encoding"):
        pixels, labels = images.pixels(part), images.labels[part].tolist()
        scores, means, log_sigmas = describe_pixels(model, pixels, labels if model.nclasses else None, score)
        names = [class_label(data.classes, label) if data.classes else "" for label in labels]
        paths = [f"validation image {row}" for row in part.tolist()]
        blocks.append(Block(paths, names, [""] * len(part), scores, means, log_sigmas, thumbnails(pixels)))
    return Encoded(joined(blocks), [])


def encode_files(
    model: LatentModel, root: Path, files: Sequence[Found], classes: Classes, score: Score | None
) -> Encoded:
    """Return the images of files that can be used, in their order, and the other files.

    Raises:
        DataError: if no file can be used.
    """
    blocks: list[Block] = []
    bad: list[Bad] = []
    for block in encode_blocks(model, root, files, classes, score):
        bad += [Bad(path, reason) for path, reason in zip(block.path, block.reason, strict=True) if reason]
        blocks.append(usable_rows(block))
    found = joined(blocks)
    if not found.path:
        raise DataError(f"images= holds no usable picture ({bad[0].reason}); name other images.")
    return Encoded(found, bad)


def usable_rows(block: Block) -> Block:
    """Return the rows of images that could be encoded, with thumbnails in place of their pixels."""
    rows = [i for i, reason in enumerate(block.reason) if not reason]
    path, class_, reason = ([column[i] for i in rows] for column in (block.path, block.class_, block.reason))
    score, mean, log_sigma = (column[rows] for column in (block.score, block.mean, block.log_sigma))
    return Block(path, class_, reason, score, mean, log_sigma, thumbnails(block.pixels[rows]))


def joined(blocks: Sequence[Block]) -> Block:
    """Return the rows of several blocks as one."""
    path, class_, reason, score, mean, log_sigma, pixels = zip(*blocks, strict=True)
    path, class_, reason = ([*chain.from_iterable(column)] for column in (path, class_, reason))
    score, mean, log_sigma = (np.concatenate(column) for column in (score, mean, log_sigma))
    return Block(path, class_, reason, score, mean, log_sigma, torch.cat(pixels))

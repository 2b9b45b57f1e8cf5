"""Encoding of image files into a table of latents."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.files.cache import Decoded, decode_blocks
from vae_lab.data.files.listing import Found
from vae_lab.data.files.places import Place, exclude_files, find_all, paths
from vae_lab.data.folder import SUBFOLDERS
from vae_lab.data.pictures import Pixels, file_rules
from vae_lab.errors import DataError, FilesFailed
from vae_lab.latents.encoding import batches_of, posteriors_of
from vae_lab.latents.tables import Block, check_table, failed_block, new_table
from vae_lab.models.ladder import Ladder
from vae_lab.models.modes import evaluating
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.folder import locate
from vae_lab.runs.load import load_model, weights_digest
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import versions
from vae_lab.sampling.images import EVERY, class_label, class_number, read_classes
from vae_lab.system.atomic import expand_wildcards
from vae_lab.system.folders import expanded, require_writable
from vae_lab.system.progress import track

log = logging.getLogger(__name__)

BLOCK = 1024
"""Files that are decoded and encoded before their rows are written."""
BLOCK_BYTES = 2**26
"""Bytes of pixels in a block, at most."""


@runtime_checkable
class Score(Protocol):
    """The role of `vae_lab.detection.scores.anomaly.Score`."""

    unit: str

    def __call__(self, model: LatentModel, images: Tensor, /) -> Tensor:
        """Return the score of each image."""
        ...

    def require(self, model: LatentModel) -> None:
        """Raise ValueError if the score does not support the model."""


class Classes(NamedTuple):
    """The classes of image files.

    Attributes:
        names: of the run's classes.
        number: the class of all files, or None.
        conditional: whether the model needs a class for each file.
    """

    names: list[str]
    number: int | None
    conditional: bool

    def name_of(self, path: str) -> str:
        """Return the name of a file's class: the chosen one, else that of its folder below the common one, or ""."""
        if self.number is not None:
            return class_label(self.names, self.number)
        first, slash, _ = path.partition("/")
        return first if slash else ""

    def problem(self, path: str) -> str:
        """Return why a file has no class of a conditional model, or ""."""
        if not self.conditional or self.number is not None or self.name_of(path) in self.names:
            return ""
        return f"its folder {self.name_of(path)!r} is not named like a class of the run"

    def labels(self, names: Sequence[str]) -> list[int] | None:
        """Return the class numbers for class names; None for an unconditional model."""
        if not self.conditional:
            return None
        return [self.names.index(name) if self.number is None else self.number for name in names]


def encode_folder(
    *,
    run: str | Path,
    images: object,
    out: str | Path,
    score: Score | None = None,
    which: object = None,
    checkpoint: str = "best",
    trust: Trust = None,
    force: bool = False,
) -> int:
    """Write a table with the posterior mean and log sigma of each image file, and return the number of images.

    Files that cannot be used have a row with the reason. Files are read in blocks, so memory does not grow with their
    pixels.

    Args:
        run: a run folder or checkpoint file.
        images: a folder, a file, or several.
        out: a .csv, .parquet or .npz.
        score: an anomaly score without a fit, for the column "score", or None.
        which: for a conditional run, the name or number of a class, or "subfolders".
        checkpoint: "best" or "last".
        trust: packages, besides vae_lab, whose classes the run may use.
        force: whether to overwrite a file that is not a table of latents.

    Raises:
        FilesFailed: at the end, if some files could not be used.
        DataError: if the run or the images cannot be found.
        ValueError: if a setting is wrong.

    Example:
        >>> from PIL import Image
        >>> from vae_lab.latents.folder import encode_folder
        >>> Image.new("L", (28, 28)).save("black.png")
        >>> encode_folder(run="outputs/digits", images="black.png", out="latents.csv")  # the run of train_run's example
        1
    """
    table_path = expanded(out)
    check_table(table_path, force=force)
    require_writable(table_path.parent)
    model = load_model(run, checkpoint, trust=trust)
    if score is not None:
        score.require(model)
    classes = choose_classes(model, which, read_classes(Path(run), checkpoint)[0])
    place = find_images(images, [table_path])
    if isinstance(model, Ladder):
        log.info("latents of %d groups, from the top down: %s", len(model.decoder.sizes), model.decoder.sizes)
    nfailed = len(place.unreadable)
    with new_table(table_path, model.nlatent, origin_of(run, checkpoint)) as table:
        for block in encode_blocks(model, place.root, place.files, classes, score):
            nfailed += sum(map(bool, block.reason))
            table.write(block)
        if place.unreadable:
            names, reasons = zip(*place.unreadable, strict=True)
            table.write(failed_block(names, reasons, model.nlatent, shape_of(model)))
    nrows = len(place.files) + len(place.unreadable)
    log.info("%d of %d files encoded, %d latents each; %s", nrows - nfailed, nrows, model.nlatent, table_path)
    if nfailed:
        raise FilesFailed(f"{nfailed} of {nrows} files could not be encoded; the reasons are in {table_path}.")
    return nrows


def origin_of(run: str | Path, checkpoint: str) -> dict[str, str]:
    """Return what a table of latents was made of."""
    folder, stem = locate(run, checkpoint)
    return {"run": folder.name, "checkpoint": stem, "weights": weights_digest(run, checkpoint)} | versions()


def find_images(images: object, own: Sequence[Path]) -> Place:
    """Return the files that the setting images= names, without those that the command itself writes.

    Raises:
        DataError: if no file is left.
    """
    found = find_all(expand_wildcards(paths(images, "images"), "images"))
    place = exclude_files(found, {str(path.resolve()) for path in own})
    if not place.files and not place.unreadable:
        raise DataError("images= holds no files other than out=; name other images.")
    return place


def choose_classes(model: LatentModel, which: object, names: list[str]) -> Classes:
    """Return the classes of the images, from the setting class=.

    Raises:
        ValueError: if a conditional run gets no class, or an unconditional one gets one.
    """
    conditional = model.nclasses > 0
    if conditional and which == SUBFOLDERS and SUBFOLDERS not in names:
        return Classes(names or [str(k) for k in range(model.nclasses)], None, conditional)
    if conditional and (which is None or (which in (EVERY, "*") and which not in names)):
        raise ValueError(
            f"class={'' if which is None else which}: the run is conditional on {model.nclasses} classes; name that of"
            " the images with class=, or type class=subfolders if they are in folders named like the classes."
        )
    number = class_number(model, which, names)
    return Classes(names, number if isinstance(number, int) else None, conditional)


def shape_of(model: LatentModel) -> tuple[int, int, int]:
    """Return the channels, height and width of a model's images."""
    return model.channels, model.image_size, model.image_size


def block_size(model: LatentModel) -> int:
    """Return the number of images that are read and encoded at a time."""
    return max(1, min(BLOCK, BLOCK_BYTES // file_rules(model).nbytes))


def encode_blocks(
    model: LatentModel, root: Path, files: Sequence[Found], classes: Classes, score: Score | None
) -> Iterator[Block]:
    """Yield the rows of files in blocks, in their order, and show the progress."""
    size = block_size(model)
    blocks = decode_blocks(root, files, file_rules(model), size, describe=False)
    for _, (block, decoded) in zip(track(range(0, len(files), size), "encoding"), blocks, strict=True):
        yield encode_block(model, block, decoded, classes, score)


def encode_block(
    model: LatentModel, files: Sequence[Found], decoded: Decoded, classes: Classes, score: Score | None
) -> Block:
    """Return the rows of some decoded files, in their order."""
    names = [classes.name_of(file.path) for file in files]
    damaged = {bad.path: bad.reason for bad in decoded.bad}
    kept = [file.path for file in files if file.path not in damaged]
    reasons: dict[str, str] = {file.path: classes.problem(file.path) for file in files} | damaged
    usable = [i for i, path in enumerate(kept) if not reasons[path]]
    empty = failed_block([file.path for file in files], [*reasons.values()], model.nlatent, shape_of(model))
    block = empty._replace(class_=names, log_sigma=empty.log_sigma.copy())
    if not usable:
        return block
    row_of = {file.path: i for i, file in enumerate(files)}
    rows = [row_of[kept[i]] for i in usable]
    pixels = decoded.pixels[usable]
    found = describe_pixels(model, pixels, classes.labels([names[i] for i in rows]), score)
    block.pixels[rows] = pixels
    for column, values in zip((block.score, block.mean, block.log_sigma), found, strict=True):
        column[rows] = values
    finite = np.isfinite(found[1]).all(1) & (np.isfinite(found[0]) if score is not None else True)
    for i in np.flatnonzero(~finite):
        block.reason[rows[i]] = "the model gives no finite numbers"
    return block


def describe_pixels(
    model: LatentModel, pixels: Tensor, labels: list[int] | None, score: Score | None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n nlatent"], Float[np.ndarray, "n nlatent"]]:
    """Return the scores, NaN without a score, and the posterior means and log sigmas of images."""
    found: list[tuple[Any, ...]] = []
    with torch.no_grad(), evaluating(model):
        for one, part in batches_of(model, Pixels(pixels), labels):
            scores = torch.full((len(part),), torch.nan) if score is None else score(one, part)
            found.append((scores, *posteriors_of(one, part)))
    scores, means, log_sigmas = (torch.cat(column).float().cpu().numpy() for column in zip(*found, strict=True))
    return scores, means, log_sigmas

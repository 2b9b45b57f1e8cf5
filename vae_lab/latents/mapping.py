"""Maps of the latents of images, as an interactive page or a picture."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from vae_lab.data.datamodule import ImageData
from vae_lab.data.files.listing import Bad, printable
from vae_lab.data.files.own_output import first_bytes
from vae_lab.data.files.places import Place
from vae_lab.errors import FilesFailed, require_choice, require_count
from vae_lab.latents.coloring import Coloring, Labels, color_values, read_labels
from vae_lab.latents.folder import Classes, Score, choose_classes, find_images
from vae_lab.latents.map_figure import NAMES, describe_map, map_figure
from vae_lab.latents.mapped import Encoded, choose_rows, encode_files, encode_validation
from vae_lab.latents.projection import Projection, check_projection, project_latents
from vae_lab.latents.tables import Block
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.load import load_data, load_model
from vae_lab.runs.packages import Trust
from vae_lab.sampling.images import read_classes
from vae_lab.system.atomic import whole, write_whole
from vae_lab.system.folders import expanded, require_writable

log = logging.getLogger(__name__)

SUFFIXES = (".html", ".png")
MARK = "vae_lab map"
"""Text at the beginning of each file that this module writes, by which a later call knows that it may replace it."""
NAMED = 20
"""Files that cannot be used with a log line of their own."""


class Choice(NamedTuple):
    """The images of a map.

    Attributes:
        encoded: those of them that could be encoded.
        words: what they are, such as "5,000 of 10,000 validation images".
        root: the folder that their paths are relative to.
    """

    encoded: Encoded
    words: str
    root: Path


def map_latents(
    *,
    run: str | Path,
    out: str | Path,
    images: object = None,
    method: str = "pca",
    color: str = "class",
    labels: str | Path | None = None,
    score: Score | None = None,
    n: int = 5000,
    seed: int = 0,
    perplexity: float = 30.0,
    nneighbors: int = 15,
    which: object = None,
    root: str | None = None,
    checkpoint: str = "best",
    trust: Trust = None,
    force: bool = False,
) -> int:
    """Write a map of the latents of images, and return the number of images on it.

    A .html is a page that works offline and shows the image under the mouse; a .png is a picture.

    Args:
        run: a run folder or checkpoint file.
        out: a .html or .png.
        images: a folder, a file, or several; None stands for the run's validation images.
        method: "pca", "tsne" or "umap"; see `project_latents`, also for its other settings.
        color: "class", "score", or a column of `labels`.
        labels: a CSV with a column `path`.
        score: an anomaly score without a fit, for the color "score".
        n: most images on the map; of more, that many are drawn at random.
        seed: of the draw and of the method.
        perplexity: of t-SNE.
        nneighbors: of UMAP.
        which: for a conditional run and given images, the name or number of a class, or "subfolders".
        root: the folder of the run's images if they have been moved.
        checkpoint: "best" or "last".
        trust: packages, besides vae_lab, whose classes the run may use.
        force: whether to overwrite a file that is not a map.

    Raises:
        FilesFailed: at the end, if some files could not be used.
        DataError: if the run, the images or the CSV cannot be used.
        ValueError: if a setting is wrong.

    Example:
        >>> from vae_lab.latents.mapping import map_latents
        >>> map_latents(run="outputs/digits", out="map.png")  # the run of train_run's example
        180
    """
    require_count("n", n, 2)
    path = expanded(out)
    check_map(path, force=force)
    table = choose_labels(color, labels, images, score)
    require_writable(path.parent)
    model = load_model(run, checkpoint, trust=trust)
    if score is not None:
        score.require(model)

    def rows(total: int) -> list[int]:
        check_projection(method, min(n, total), model.nlatent, perplexity=perplexity, nneighbors=nneighbors)
        return choose_rows(total, n, seed)

    if images is None:
        chosen = choose_validation(model, load_data(run, checkpoint, root=root, trust=trust), rows, score)
    else:
        classes = choose_classes(model, which, read_classes(Path(run), checkpoint)[0])
        chosen = choose_files(model, find_images(images, [path]), rows, classes, score)
    block = chosen.encoded.block
    coloring = color_images(block, color, table, chosen.root, score)
    log.info("mapping the latents of %d images by %s", len(block.path), NAMES[method])
    limits = {"perplexity": perplexity, "nneighbors": nneighbors}
    found = project_latents(torch.from_numpy(block.mean), method, seed, **limits)
    caption = describe_map(found, coloring, model.nlatent, chosen.words)
    write_map(path, found, coloring, caption, block)
    report_files(chosen.encoded.bad, len(block.path), path)
    return len(block.path)


def check_map(out: Path, *, force: bool) -> None:
    """Raise ValueError unless `out` is a .html or .png, and no file but a map is there; `force` overwrites others."""
    require_choice("the ending of out=", out.suffix.lower(), SUFFIXES)
    if out.exists() and not out.is_file():
        raise ValueError(f"out={out} exists and is not a file; choose another name.")
    if out.is_file() and out.stat().st_size and not force and MARK.encode() not in first_bytes(out, 200):
        raise ValueError(f"{out} is not a map; choose another out=, or force=true to overwrite it.")


def choose_labels(color: str, labels: str | Path | None, images: object, score: Score | None) -> Labels | None:
    """Return the column of a CSV that images are coloured by; None for the class or the score.

    Raises:
        DataError: if the CSV cannot be used.
        ValueError: if settings contradict each other.
    """
    if labels is None:
        if color not in ("class", "score"):
            raise ValueError(f"color={color} must be class, score, or a column of a CSV that labels= names.")
        if color == "score" and score is None:
            raise ValueError("color=score needs a score; give one with score=.")
        return None
    if images is None:
        raise ValueError(
            f"labels={labels} has paths, and the run's validation images have none; name files by images=."
        )
    return read_labels(expanded(labels), color)


def choose_validation(
    model: LatentModel, data: ImageData, rows: Callable[[int], list[int]], score: Score | None
) -> Choice:
    """Return the validation images of a run in the rows that `rows` chooses by their number."""
    total = len(data.splits.val)
    encoded = encode_validation(model, data, rows(total), score)
    return Choice(encoded, count_words(len(encoded.block.path), total, "validation images"), Path())


def choose_files(
    model: LatentModel, place: Place, rows: Callable[[int], list[int]], classes: Classes, score: Score | None
) -> Choice:
    """Return the images of the files that `rows` chooses by their number."""
    total = len(place.files)
    files = [place.files[row] for row in rows(total)]
    encoded = encode_files(model, place.root, files, classes, score)
    encoded = encoded._replace(bad=[*encoded.bad, *place.unreadable])
    return Choice(encoded, count_words(len(encoded.block.path), total, "images"), place.root)


def count_words(n: int, total: int, images: str) -> str:
    """Return a number of images in words, and how many there are in all if that is another number."""
    return f"{total:,} {images}" if n == total else f"{n:,} of {total:,} {images}"


def color_images(block: Block, color: str, table: Labels | None, root: Path, score: Score | None) -> Coloring:
    """Return what images are coloured by.

    Raises:
        DataError: if the CSV names none of the images.
    """
    if table is not None:
        return color_values(table.column, table.of_images(root, block.path))
    if score is None or color != "score":
        return Coloring("class", block.class_)
    return Coloring(f"score {type(score).__name__} [{score.unit}]", [f"{x:.4g}" for x in block.score], block.score)


def write_map(path: Path, found: Projection, coloring: Coloring, caption: str, block: Block) -> None:
    """Write a map as a page or a picture, by the ending of `path`, and log what it is."""
    if path.suffix.lower() == ".png":
        with whole(path) as temporary:
            figure = map_figure(found, coloring, caption)
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": MARK})
    else:
        from vae_lab.latents.map_page import render_map  # plotly takes half a second

        write_whole(path, render_map(found, coloring, caption, block).encode())
    log.info("%s", caption)
    log.info("%s, %.1f MB", path, path.stat().st_size / 1e6)


def report_files(bad: Sequence[Bad], nused: int, path: Path) -> None:
    """Raise FilesFailed if some files could not be used, after a log line for each of the first ones."""
    for one in bad[:NAMED]:
        log.warning("left out %s: %s", printable(one.path), one.reason)
    if bad:
        raise FilesFailed(f"{len(bad)} of {len(bad) + nused} files are not on {path}; the log has the reasons.")

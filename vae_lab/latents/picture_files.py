"""Pictures made from image files: reconstructions, interpolations and traversals, as a .png or a folder of PNGs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vae_lab.data.captions import captioned
from vae_lab.data.files.cache import decode_files
from vae_lab.data.files.listing import Bad, Found, printable
from vae_lab.data.files.places import Place, paths
from vae_lab.data.grids import grid, paired, to_uint8
from vae_lab.data.pictures import file_rules, model_input
from vae_lab.errors import DataError, FilesFailed, require_count, require_number
from vae_lab.latents.encoding import Images, reconstruct_images
from vae_lab.latents.folder import Classes, block_size, choose_classes, find_images
from vae_lab.latents.interpolation import interpolate_images
from vae_lab.latents.traversal import latent_direction, read_direction, traverse_images, walk_direction
from vae_lab.probability.latent_model import LatentModel
from vae_lab.runs.folder import locate
from vae_lab.runs.load import load_model, weights_digest
from vae_lab.runs.manifest import is_picture, put_pictures, require_room
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import versions
from vae_lab.sampling.images import read_classes
from vae_lab.system.atomic import expand_wildcards, require_folder_name, write_png
from vae_lab.system.folders import expanded, require_writable

log = logging.getLogger(__name__)

NAMED = 20
"""Files that cannot be used with a log line of their own."""


class Settings(NamedTuple):
    """What the commands that make pictures have in common.

    Attributes:
        run: a run folder or checkpoint file.
        images: a folder, a file, or several.
        out: a .png, or a folder.
        which: for a conditional run, the name or number of a class.
        checkpoint: "best" or "last".
        trust: packages, besides vae_lab, whose classes the run may use.
    """

    run: str | Path
    images: object
    out: str | Path
    which: object = None
    checkpoint: str = "best"
    trust: Trust = None


class Opened(NamedTuple):
    """A model, the classes of the images, the place of the pictures, and what they are made of."""

    model: LatentModel
    classes: Classes
    out: Path
    made_of: dict[str, object]


def open_run(settings: Settings, **more: object) -> Opened:
    """Return the model of a run and where its pictures go, after checks of the settings; `more` are others of them.

    Raises:
        DataError: if there is no such run.
        StorageError: if the place cannot be written.
        ValueError: if the place holds other pictures, or the class is wrong.
    """
    out = expanded(settings.out)
    require_folder_name(out, ".png")
    if out.suffix.lower() != ".png" and out.is_file():
        raise ValueError(f"out={out} is a file, but not a .png; choose a folder or a .png.")
    require_writable(out.parent if is_picture(out) else out)
    model = load_model(settings.run, settings.checkpoint, trust=settings.trust)
    folder, checkpoint = locate(settings.run, settings.checkpoint)
    weights = {"run": str(folder), "checkpoint": checkpoint, "weights": weights_digest(settings.run, checkpoint)}
    named = [str(path) for path in paths(settings.images, "images")]
    made_of = {**weights, "images": named, "class": settings.which, **more, "vae_lab": versions().get("vae_lab")}
    require_room(out, made_of, replace=True)
    names, _ = read_classes(Path(settings.run), settings.checkpoint)
    return Opened(model, choose_classes(model, settings.which, names), out, made_of)


def reconstruct_files(settings: Settings, nshown: int = 48) -> int:
    """Write reconstructions of image files, and return the number of pictures that were used.

    A .png shows the first `nshown` pictures, each above its reconstruction. A folder also gets a PNG of the
    reconstruction of each file; files are read in blocks.

    Raises:
        FilesFailed: at the end, if some files could not be used.
        DataError: if the run or the images cannot be found.
        ValueError: if a setting is wrong.
    """
    require_count("nshown", nshown)
    opened = open_run(settings, nshown=nshown)
    place = find_images(settings.images, [])
    bad = list(place.unreadable)
    names: list[str] = []
    shown: list[tuple[Tensor, Tensor]] = []
    alone = is_picture(opened.out)

    def save(aside: Path) -> list[str]:
        for path, picture, decoded in reconstructions(opened, place, bad.append):
            names.append(f"{len(names):05d}-{Path(path).stem}.png")
            if len(shown) < nshown:
                shown.append((picture, decoded))
            if not alone:
                write_png(aside / names[-1], to_uint8(decoded))
            elif len(shown) == nshown:
                break
        if not shown:
            raise DataError(f"images= holds no usable picture ({bad[0].reason}); name other images.")
        above, below = (torch.stack(column) for column in zip(*shown, strict=True))
        ncolumns = min(8, len(shown))
        caption = "Pictures as the model sees them, each row above the row of their reconstructions."
        rows = ["picture", "recon-\nstruction"] * -(-len(shown) // ncolumns)
        sheet = captioned(grid(paired(above, below, ncolumns), ncolumns), caption, rows)
        write_png(aside if alone else aside / "grid.png", sheet)
        return [] if alone else names

    put_pictures(opened.out, opened.made_of, save, [])
    log.info("%d reconstructions in %s", len(names), opened.out)
    for one in bad[:NAMED]:
        log.warning("left out %s: %s", printable(one.path), one.reason)
    if bad:
        raise FilesFailed(f"{len(bad)} of {len(bad) + len(names)} files could not be reconstructed; see the log.")
    return len(names)


def reconstructions(
    opened: Opened, place: Place, on_bad: Callable[[Bad], None]
) -> Iterator[tuple[str, Float[Tensor, "channels height width"], Float[Tensor, "channels height width"]]]:
    """Yield (path, picture as the model sees it, its reconstruction) of each usable file, and report the others."""
    model, classes = opened.model, opened.classes
    rules = file_rules(model)
    size = block_size(model)
    for start in range(0, len(place.files), size):
        files: list[Found] = []
        for file in place.files[start : start + size]:
            problem = classes.problem(file.path)
            if problem:
                on_bad(Bad(file.path, problem))
            else:
                files.append(file)
        decoded = decode_files(place.root, files, rules, on_bad)
        gone = {one.path for one in decoded.bad}
        good = [file.path for file in files if file.path not in gone]
        labels = classes.labels([classes.name_of(path) for path in good])
        if good:
            found = reconstruct_images(model, decoded.pixels, label=labels, layout="NCHW")
            yield from zip(good, model_input(decoded.pixels, model), found, strict=True)


def interpolate_files(settings: Settings, n: int = 9, path: str = "spherical") -> Images:
    """Write the `n` images on a path between two pictures, and return them.

    A .png shows them in a row. A folder also gets a PNG of each.

    Raises:
        DataError: if the run or a picture cannot be used.
        ValueError: if a setting is wrong, or there are not two pictures.
    """
    opened = open_run(settings, n=n, path=path)
    label = one_class(opened, settings)
    images = interpolate_images(opened.model, paths(settings.images, "images"), n, path=path, label=label)

    put_strip(opened, images, n, f"Images on a {path} path between the reconstructions of two pictures, at the ends.")
    log.info("%d images on a %s path in %s", n, path, opened.out)
    return images


def traverse_files(
    settings: Settings, n: int = 7, nlatents: int = 8, reach: object = None, direction: str | Path | None = None
) -> Images:
    """Write images of a walk from pictures through the latent space, a row for each latent or picture; return them.

    Args:
        settings: of all commands.
        n: images of a row.
        nlatents: latents that are moved, without a direction.
        reach: how far: of a latent, by default 3, or in multiples of the direction, by default 1.
        direction: a CSV with the columns path and label, whose mean latents of the two labels differ by the direction;
            None moves single latents of the first picture.

    Raises:
        DataError: if the run, a picture or the CSV cannot be used.
        ValueError: if a setting is wrong.
    """
    opened = open_run(
        settings, n=n, nlatents=nlatents, reach=reach, direction=None if direction is None else str(direction)
    )
    model, label = opened.model, one_class(opened, settings)
    far = (3.0 if direction is None else 1.0) if reach is None else reach
    require_number("reach", far, "(0, inf)")
    assert isinstance(far, int | float)
    files = expand_wildcards(paths(settings.images, "images"), "images")
    if direction is None:
        found = traverse_images(model, files, n, nlatents=nlatents, reach=float(far), label=label)
        log.info("rows, by their KL to the prior: latents %s", ", ".join(map(str, found.latents)))
        images = found.images.flatten(0, 1)
        caption = (
            f"Each row moves one latent of the first picture from -{far:g} (left) to {far:g} (right), the others stay;"
        )
        caption += " rows in the order of their KL to the prior in nats."
        rows = [f"latent {k}\nKL {rate:.2f}" for k, rate in zip(found.latents, found.rates, strict=True)]
    else:
        first, second, names = read_direction(expanded(direction))
        vector = latent_direction(model, first, second, label=label)
        log.info("direction from label %s (%d pictures) to %s (%d)", names[0], len(first), names[1], len(second))
        images = walk_direction(model, files, vector, n, reach=float(far), label=label).flatten(0, 1)
        caption, rows = f"Each row moves a picture from -{far:g} (left) to {far:g} (right) times the direction", []
        caption += f" from label {names[0]} to label {names[1]}."
    put_strip(opened, images, n, printable(caption), rows)
    log.info("%d rows of %d images in %s", len(images) // n, n, opened.out)
    return images


def one_class(opened: Opened, settings: Settings) -> int | None:
    """Return the class of all pictures, None for an unconditional model.

    Raises:
        ValueError: if a conditional run gets no single class.
    """
    if opened.classes.conditional and opened.classes.number is None:
        raise ValueError(f"class={settings.which}: name one class for all pictures with class=.")
    return opened.classes.number


def put_strip(opened: Opened, images: Images, ncolumns: int, caption: str, rows: Sequence[str] = ()) -> None:
    """Write images in rows of `ncolumns` with their texts, as a .png, or into a folder with a PNG of each."""

    def save(aside: Path) -> list[str]:
        sheet = captioned(grid(images, ncolumns), caption, rows)
        write_png(aside if is_picture(opened.out) else aside / "grid.png", sheet)
        names = [] if is_picture(opened.out) else [f"{i:05d}.png" for i in range(len(images))]
        for name, image in zip(names, images, strict=False):
            write_png(aside / name, to_uint8(image))
        return names

    put_pictures(opened.out, opened.made_of, save, [])

"""Comparison of any two sets of images, folders or runs, with the metrics of `evaluate`."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from vae_lab.data.files.listing import printable
from vae_lab.data.grids import Grid
from vae_lab.errors import FilesFailed, require_count
from vae_lab.evaluation.comparison import FEWEST_FOR_FID, compare_sets, compare_spectra, describe_sets
from vae_lab.evaluation.extractors import load_extractor
from vae_lab.evaluation.headline import interval
from vae_lab.evaluation.html import picture
from vae_lab.evaluation.judging import find_nearest
from vae_lab.evaluation.metrics.feature_memorisation import NearestVectors, nearest_panel
from vae_lab.evaluation.metrics.features import EfficientNetLite, Extractor
from vae_lab.evaluation.protocol import FEWEST, GPU, JUDGED_ON_CPU, limit_settings
from vae_lab.evaluation.sources import Place, Source, read_data, read_folder, read_samples
from vae_lab.runs.inference import every_pixel
from vae_lab.runs.load import load_checkpoint
from vae_lab.runs.packages import Trust
from vae_lab.runs.provenance import device_name, versions
from vae_lab.system.atomic import require_folder_name, write_png, write_whole
from vae_lab.system.devices import choose_device
from vae_lab.system.folders import require_writable

log = logging.getLogger(__name__)

NAME = "comparison"
"""Name without suffix of the files of a comparison."""

SUFFIXES = (".json", ".html", ".png")

SIDE = 64
"""Height and width in pixels at which two folders are compared."""

IDENTICAL = 1e-3
"""Two images with features at a smaller distance are the same."""

NAMED = 20
"""Largest number of bad files with a log line of their own."""


def compare_folders(images: Path, against: Path, folder: Path, *, image_size: int | None, checkpoint: str,
                    root: str | None, seed: int, device: str, features: str, ngenerated: int | None,
                    trust: Trust = None, **settings: int) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of one set of images against another, and write comparison.json, .html and .png.

    Args:
        images: the images that are judged: a folder, or a run, whose prior is sampled.
        against: the images that they are compared with: a folder, or a run, for all images of its data set.
        folder: the output folder.
        image_size: height and width in pixels; None for the size of a run, or 64.
        checkpoint: "best" or "last", of a run.
        root: the folder that holds the images of a run now; None for the one stored in the run.
        seed: seed of every random draw.
        device: "auto", "cpu" or "cuda".
        features: name of the feature extractor; see `load_extractor`.
        ngenerated: samples of a run; None chooses by device.
        trust: packages, besides vae_lab, whose classes a run may use.
        settings: ngroups, nreplicates and k.

    Raises:
        DataError: if there are too few images, or a run or a folder cannot be read.
        ValueError: if a setting is wrong.
    """
    started = time.perf_counter()
    for name, value in settings.items():
        require_count(name, value, 1 if name == "k" else 2)
    if ngenerated is not None:
        require_count("ngenerated", ngenerated, FEWEST)
    require_folder_name(folder)
    require_writable(folder)
    where = choose_device(device)
    places = [Place(name, path, checkpoint, root, trust) for name, path in (("images", images), ("against", against))]
    size = choose_image_size(places, image_size)
    n = (JUDGED_ON_CPU if where.type == "cpu" else GPU.ncompared) if ngenerated is None else ngenerated
    judged, reference = read_sources(places, size, n, seed, where, [folder / f"{NAME}{suffix}" for suffix in SUFFIXES])
    settings = limit_settings(settings, min(len(judged.images), len(reference.images)))
    extractor = load_extractor(features, reference.images, judged.trained_against).to(where)
    table, nearest = compare_sources(judged, reference, extractor, where, {"seed": seed} | settings)
    names = {"images": str(images), "against": str(against), "features": extractor.key}
    facts = {"image_size": size, "trained_against": judged.trained_against, "device": device_name(where)}
    result = {
        "protocol": names | facts | {"seed": seed, "versions": versions()},
        "comparison": table,
        "blur": compare_spectra({"images": every_pixel(judged.images)}, every_pixel(reference.images))["images"],
        "bad": {"images": [bad._asdict() for bad in judged.bad], "against": [bad._asdict() for bad in reference.bad]},
        "seconds": time.perf_counter() - started,
    }
    write_files(folder, result, nearest_panel(every_pixel(judged.images), reference.images, nearest))
    return result


def choose_image_size(places: Sequence[Place], asked: int | None) -> int:
    """Return the height and width of the images: that of the runs among the places, else the asked one or 64.

    Raises:
        ValueError: if the size is no positive number, or differs from that of a run.
    """
    if asked is not None:
        require_count("image_size", asked, 8)
    sizes = {place.setting: image_size_of(place) for place in places if place.is_run}
    found = {*sizes.values(), *([asked] if asked is not None else [])}
    if len(found) > 1:
        named = " and ".join(f"{size} of {name}=" for name, size in sizes.items())
        asked_too = "" if asked is None else f", and image_size={asked}"
        raise ValueError(
            f"the image size is {named}{asked_too}; runs are compared at their own size, so choose equal ones."
        )
    return found.pop() if found else SIDE


def image_size_of(place: Place) -> int:
    """Return the image size of a run's model."""
    return int(load_checkpoint(place.path, place.checkpoint)["hyper_parameters"]["model"]["image_size"])


def read_sources(  # noqa: PLR0917
    places: Sequence[Place], size: int, n: int, seed: int, device: torch.device, own: Sequence[Path]
) -> list[Source]:
    """Return the images of both places, and log the files that are no usable images."""
    judged, against = places
    found = [
        read_samples(judged, n, seed, device) if judged.is_run else read_folder(judged, size, own),
        read_data(against) if against.is_run else read_folder(against, size, own),
    ]
    for place, source in zip(places, found, strict=True):
        for bad in source.bad[:NAMED]:
            log.warning("%s: skipped %s: %s", place.setting, printable(bad.path), bad.reason)
        if len(source.bad) > NAMED:
            log.warning("%s: … and %d more", place.setting, len(source.bad) - NAMED)
    return found


def compare_sources(
    judged: Source, reference: Source, extractor: Extractor, device: torch.device, settings: dict[str, int]
) -> tuple[dict[str, Any], NearestVectors]:
    """Return the metrics of one set of images against the other, and the nearest image of each in the other."""
    others = [EfficientNetLite(name) for name in judged.trained_against if name != extractor.key]
    sets, parts = {"images": judged.images}, {"train": reference.images}
    described = [describe_sets(one, sets, parts, device) for one in (extractor, *others)]
    table = compare_sets(described, lambda one, _: one.parts["train"], **settings)["images"]
    nearest = find_nearest(extractor, described[0], reference.images, device)["images"]
    identical = int((nearest.distances < IDENTICAL).sum())
    if identical:
        log.warning("%d of %d images are also in against=, mirrored or not: KID is too low", identical, len(nearest[0]))
    if extractor.key in judged.trained_against:
        log.warning("the run was trained against %s, so its features flatter it", extractor.key)
    return table | {f"distance_{extractor.key}": nearest.distances.median().item(), "identical": identical}, nearest


def write_files(folder: Path, result: dict[str, Any], panel: Grid) -> None:
    """Write the result as JSON and HTML, and the picture of the nearest pairs as PNG."""
    environment = Environment(
        loader=PackageLoader("vae_lab.evaluation", "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("comparison.html").render(
        result=result, lines=describe_comparison(result), panel=picture(panel)
    )
    write_whole(folder / f"{NAME}.json", json.dumps(result, indent=2, allow_nan=False).encode())
    write_whole(folder / f"{NAME}.html", page.encode())
    write_png(folder / f"{NAME}.png", panel)


def describe_comparison(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the table of a comparison: a name and its value, as text, for each metric."""
    row, protocol = result["comparison"], result["protocol"]
    key = protocol["features"]
    lines = [("images", f"{row['nimages']} against {row['nreference']}, {protocol['image_size']} pixels a side")]
    for each in [name.removeprefix("kid_") for name in row if name.startswith("kid_")]:
        mark = " (trained against)" if each in protocol["trained_against"] else ""
        fid = row[f"fid_{each}"]
        missing = f"left out below {FEWEST_FOR_FID:,} images in either set"
        lines.append((f"KID_{each} x 1000{mark}", interval(row[f"kid_{each}"], 1000.0)))
        lines.append((f"FID_{each}{mark}", missing if fid is None else interval(fid)))
    shares = ("precision", "recall", "density", "coverage")
    lines += [(f"{name}_{key}", f"{row[f'{name}_{key}']:.3f} (k={row['k']})") for name in shares]
    lines.append((f"distance_{key}", f"{row[f'distance_{key}']:.2f} to the nearest, median"))
    lines.append(("identical", str(row["identical"])))
    bands = result["blur"] or {}
    lines += [(f"power, {name} frequencies", f"{value:.3f} of the others' power") for name, value in bands.items()]
    return lines


def report_bad(result: dict[str, Any]) -> None:
    """Raise FilesFailed if some files are no usable images."""
    counts = {name: len(bad) for name, bad in result["bad"].items() if bad}
    if counts:
        named = " and ".join(f"{count} files of {name}=" for name, count in counts.items())
        raise FilesFailed(f"{named} are no usable images; the reasons are in {NAME}.json.")

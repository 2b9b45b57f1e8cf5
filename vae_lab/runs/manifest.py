"""The manifest beside generated pictures, which records the settings and the run that they were generated from.

A folder holds the pictures of a single call. Those of an earlier call are replaced, and a folder with other pictures is
refused, so that all pictures in it come from the run and settings of the manifest.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_lab.data.files.own_output import MANIFEST
from vae_lab.runs.identity import describe_changes, differences
from vae_lab.system.atomic import write_whole

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Endings of files that are pictures."""


def manifest_path(out: Path) -> Path:
    """Return the path of the manifest of `out`, a .png file or a folder of pictures."""
    return out.with_name(f"{out.name}.json") if is_picture(out) else out / MANIFEST


def is_picture(path: Path) -> bool:
    """Return whether a path has the suffix of an image file, such as .png."""
    return path.suffix.lower() in SUFFIXES


def read_manifest(out: Path) -> dict[str, Any]:
    """Return a manifest's settings `made_of` and its picture names `images`; {} if it is missing or unreadable."""
    try:
        found = json.loads(manifest_path(out).read_text(encoding="utf-8"))
        return {"made_of": dict(found["made_of"]), "images": [str(one["file"]) for one in found["images"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def pictures_in(out: Path) -> set[str]:
    """Return the relative paths of the pictures in a folder, without hidden ones; for a picture file, its own name."""
    if is_picture(out):
        return {out.name} if out.exists() else set()
    names = (path.relative_to(out) for path in out.rglob("*") if is_picture(path))
    return {str(name) for name in names if not any(part.startswith(".") for part in name.parts)}


def require_room(out: Path, made_of: Mapping[str, object], *, replace: bool) -> None:
    """Raise ValueError if `out` holds pictures that must not be replaced.

    Args:
        out: a .png, or a folder.
        made_of: settings and run of the new pictures.
        replace: whether pictures of another call may be replaced; False for the jobs of a sweep.
    """
    found, manifest = pictures_in(out), read_manifest(out)
    foreign = sorted(found - set(manifest.get("images", ())))
    if foreign:
        raise ValueError(
            f"out={out} holds pictures that vae_lab did not write: {len(foreign)}, such as {foreign[0]}; name another"
            " place with out=."
        )
    changes = differences(manifest["made_of"], made_of, ()) if found else []
    if changes and not replace:
        raise ValueError(
            f"out={out} holds the pictures of another call, with {describe_changes(changes)}; give each job a folder of"
            " its own, as in out='pictures/${seed}'."
        )


def put_pictures(
    out: Path, made_of: Mapping[str, object], save: Callable[[Path], Sequence[str]], classes: Sequence[object]
) -> None:
    """Write pictures and their manifest, and remove the pictures of an earlier call.

    Pictures are written to a temporary folder and then moved. If the process is killed meanwhile, the manifest lists
    the old and the new pictures, so that the next call replaces all of them.

    Args:
        out: a .png, or a folder.
        made_of: settings and run of the pictures.
        save: writes the pictures to a path in place of `out`, and returns the names of those that show a single image.
        classes: the class of each image, in the order of these names; empty without classes.
    """
    folder = out.parent if is_picture(out) else out
    folder.mkdir(parents=True, exist_ok=True)
    before, manifest = sorted(pictures_in(out)), read_manifest(out)
    with tempfile.TemporaryDirectory(prefix=".generate-", dir=folder) as temporary:
        aside = Path(temporary) / out.name if is_picture(out) else Path(temporary)
        single = list(save(aside))
        names = [*single, *sorted(pictures_in(aside) - set(single))]
        write_manifest(out, made_of, [*names, *(name for name in before if name not in names)], [])
        if before:
            changes = describe_changes(differences(manifest.get("made_of"), made_of, ())) or "same settings"
            log.info("replacing %d pictures of an earlier call in %s: %s", len(before), out, changes)
        for name in set(before) - set(names):
            remove(folder, name)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary) / name, folder / name)
    write_manifest(out, made_of, names, classes)


def remove(folder: Path, name: str) -> None:
    """Remove a picture, and the folder of its class if it becomes empty."""
    (folder / name).unlink()
    parent = (folder / name).parent
    if parent != folder and not any(parent.iterdir()):
        parent.rmdir()


def write_manifest(out: Path, made_of: Mapping[str, object], names: Sequence[str], classes: Sequence[object]) -> None:
    """Write the settings `made_of`, the picture names, and the classes of single images or of the images in a grid."""
    images: list[dict[str, object]] = [{"file": name} for name in names]
    content: dict[str, object] = {"made_of": dict(made_of), "images": images}
    if is_picture(out):
        content |= {"classes": list(classes)} if classes else {}
    else:
        for image, label in zip(images, classes, strict=False):
            image["class"] = label
    write_whole(manifest_path(out), json.dumps(content, indent=2).encode())

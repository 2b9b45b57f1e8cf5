"""The manifest beside generated pictures, which says what they were made from.

A folder holds the pictures of one call: those of an earlier one are replaced, and a folder with pictures that
`generate` did not write is refused, so that whoever scores it knows what they score.
"""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_lab.runs.identity import differences, stated
from vae_lab.system.atomic import write_whole

log = logging.getLogger(__name__)

FILE = "manifest.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Of files that count as pictures."""


def manifest_path(out: Path) -> Path:
    """Return where the manifest of a .png or of a folder of pictures lies."""
    return out.with_name(f"{out.name}.json") if is_picture(out) else out / FILE


def is_picture(path: Path) -> bool:
    """Return whether a path is called as a picture is."""
    return path.suffix.lower() in SUFFIXES


def read_manifest(out: Path) -> dict[str, Any]:
    """Return what a manifest says, with the pictures that it lists; empty if there is none that can be read."""
    try:
        found = json.loads(manifest_path(out).read_text(encoding="utf-8"))
        return {"made_of": dict(found["made_of"]), "images": [str(one["file"]) for one in found["images"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def pictures_in(out: Path) -> set[str]:
    """Return the pictures at `out`, or in it and its folders, by their paths from there; hidden ones do not count."""
    if is_picture(out):
        return {out.name} if out.exists() else set()
    names = (path.relative_to(out) for path in out.rglob("*") if is_picture(path))
    return {str(name) for name in names if not any(part.startswith(".") for part in name.parts)}


def require_room(out: Path, made_of: Mapping[str, object], *, replace: bool) -> None:
    """Raise ValueError if `out` holds pictures that must not be replaced.

    Args:
        out: a .png, or a folder.
        made_of: what the new pictures are made of.
        replace: whether those of another call may be replaced; the jobs of one command keep those of each other.
    """
    found, manifest = pictures_in(out), read_manifest(out)
    foreign = sorted(found - set(manifest.get("images", ())))
    if foreign:
        raise ValueError(
            f"out={out} holds pictures that generate did not write: {len(foreign)}, such as {foreign[0]}; name another"
            " place with out=."
        )
    changes = differences(manifest["made_of"], made_of, ()) if found else []
    if changes and not replace:
        raise ValueError(
            f"out={out} holds the pictures of another call, with {stated(changes)}; give each job a place of its own,"
            " as in out='pictures/${seed}'."
        )


def put_pictures(
    out: Path, made_of: Mapping[str, object], save: Callable[[Path], Sequence[str]], classes: Sequence[object]
) -> None:
    """Write pictures and their manifest, in the place of those of an earlier call.

    Pictures are written aside and moved into place. A kill in between leaves a manifest that lists the old ones and the
    new ones, so that the next call replaces them all.

    Args:
        out: a .png, or a folder.
        made_of: what they are made of.
        save: writes them to a path that stands for `out`, and returns the names of those that show one image each.
        classes: the class of each image, in the order of those names; empty if they have none.
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
            changes = stated(differences(manifest.get("made_of"), made_of, ())) or "made of the same"
            log.info("%d pictures of an earlier call in %s are replaced: %s", len(before), out, changes)
        for name in set(before) - set(names):
            remove(folder, name)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(temporary) / name, folder / name)
    write_manifest(out, made_of, names, classes)


def remove(folder: Path, name: str) -> None:
    """Remove a picture, and the folder of its class if that is then empty."""
    (folder / name).unlink()
    parent = (folder / name).parent
    if parent != folder and not any(parent.iterdir()):
        parent.rmdir()


def write_manifest(out: Path, made_of: Mapping[str, object], names: Sequence[str], classes: Sequence[object]) -> None:
    """Write what pictures were made of, and which there are; the first ones, or those in the one grid, have classes."""
    images: list[dict[str, object]] = [{"file": name} for name in names]
    content: dict[str, object] = {"made_of": dict(made_of), "images": images}
    if is_picture(out):
        content |= {"classes": list(classes)} if classes else {}
    else:
        for image, label in zip(images, classes, strict=False):
            image["class"] = label
    write_whole(manifest_path(out), json.dumps(content, indent=2).encode())

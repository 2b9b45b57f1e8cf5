"""Safe reading of files that others may have written, up to a maximum size."""

import json
import math
from pathlib import Path
from typing import Any

MAX_BYTES = 4_000_000
"""Maximum size of a summary or config; those of vae_lab have a few thousand bytes."""


class Unreadable(Exception):  # noqa: N818
    """A file cannot be read as expected; the message is a short reason."""


def is_there(path: Path, *, links: bool = False) -> bool:
    """Return whether a path is a regular file; a symbolic link to one counts only if `links` is set."""
    try:
        return path.is_file() and (links or not path.is_symlink())
    except OSError:  # no permission to search its folder
        return False


def read_text(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> str:
    """Return the content of a UTF-8 text file of at most `limit` bytes.

    Args:
        path: the file.
        limit: maximum size in bytes.
        links: whether to follow a link. A report follows none: it shows what it reads, and a link in somebody's run
            folder could lead to a private file.

    Raises:
        Unreadable: if the file is not regular, is larger than `limit`, or cannot be read.
    """
    if not is_there(path, links=links):
        raise Unreadable(f"no {path.name}")
    try:
        if path.stat().st_size > limit:
            raise Unreadable(f"{path.name} is larger than {limit // 1_000_000} MB")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise Unreadable(f"{path.name}: {error.strerror}") from error


def read_json(path: Path, *, links: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file as a dict.

    Raises:
        Unreadable: if the file cannot be read or does not hold a JSON object.
    """
    text = read_text(path, links=links)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name} is damaged or cut short") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path.name} holds no settings or results")
    return content


def is_number(value: object) -> bool:
    """Return whether a value is a finite int or float, and not a bool."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # the integer is larger than any float
        return False

"""Bounded reading of untrusted JSON files."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 4_000_000
"""Of a summary or config; ours have a few thousand."""


class Unreadable(Exception):  # noqa: N818
    """A file that cannot be used; the message is a short reason."""


def is_there(path: Path, *, links: bool = False) -> bool:
    """Return whether a path is a regular file; a link counts with `links` alone."""
    try:
        return path.is_file() and (links or not path.is_symlink())
    except OSError:  # its folder cannot be searched
        return False


def read_text(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> str:
    """Return a file's text.

    Args:
        path: the file.
        limit: bytes that it may have.
        links: whether a link is followed; in a report, which shows what is read, it could lead to our own files.

    Raises:
        Unreadable: if it is no regular file, larger than `limit`, or cannot be read.
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
    """Return the object that a JSON file holds.

    Raises:
        Unreadable: if there is no such file, or it holds anything else.
    """
    text = read_text(path, links=links)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name} is damaged or cut short") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path.name} holds no settings or results")
    return content

"""The name, tags and notes that a run is given at its start, for people and for loggers."""

import re
from collections.abc import Mapping
from typing import Any

LONGEST = 64
"""Maximum length of a name and of a tag, which is that of W&B's tags."""
LAST, BEST = "last", "best:"
"""Values of `run=` that choose a run, and that no run may have as its name."""


def read_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `name`, `tags` and `notes` of a run's config that are given, as entries of its summary.

    Raises:
        ValueError: if the name cannot be typed as `run=<name>`, or if tags are not a list of short texts.
    """
    name, tags, notes = (config.get(key) for key in ("name", "tags", "notes"))
    given: dict[str, Any] = {} if name is None else {"name": checked_name(name)}
    if not isinstance(tags or [], list):
        raise ValueError(f"tags={tags} must be a list; type tags=[{tags}].")
    texts = [str(tag) for tag in tags or []]
    for text in texts:
        if not 0 < len(text) <= LONGEST or not text.isprintable():
            raise ValueError(f"tags: {text!r} must have 1 to {LONGEST} printable characters.")
    return given | ({"tags": texts} if texts else {}) | ({} if notes is None else {"notes": str(notes)})


def checked_name(name: object) -> str:
    """Return the name of a run as text.

    Raises:
        ValueError: if `run=<name>` would be a path, or stand for another run.
    """
    text = str(name)
    if not 0 < len(text) <= LONGEST or not text.isprintable() or re.search(r"[/\\*?\[]", text) or text in (".", ".."):
        raise ValueError(
            f"name={text!r} must have 1 to {LONGEST} printable characters other than / \\ * ? and [, because run=<name>"
            " finds the run."
        )
    if text == LAST or text.startswith(BEST):
        raise ValueError(f"name={text}: run={text} chooses a run by itself; choose another name.")
    return text


def as_folder_name(text: str) -> str:
    """Return a text with each group of characters that are awkward in a folder's name replaced by an underscore."""
    return re.sub(r"[^\w.,=-]+", "_", text)

"""Progress of a loop: a bar on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.progress import track as rich_track

log = logging.getLogger(__name__)

Item = TypeVar("Item")
LINE_EVERY = 10.0
"""Seconds between progress lines."""


def track(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items, and show how many are done: as a bar on a terminal, as log lines elsewhere."""
    if sys.stdout.isatty():
        yield from rich_track(items, what, transient=True)
        return
    next_line = time.monotonic() + LINE_EVERY
    for done, item in enumerate(items):
        if time.monotonic() > next_line:
            log.info("%s: %d of %d", what, done, len(items))
            next_line = time.monotonic() + LINE_EVERY
        yield item


def bar() -> Progress:
    """Return a progress bar on standard error, which appears only on a terminal and disappears at its end."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)

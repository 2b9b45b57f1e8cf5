"""Progress of a loop: a bar on a terminal, log lines elsewhere, or what a listener shows."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.progress import track as rich_track

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Listener = Callable[[str, int, int], None]
"""Called with what is done, how many items are done, and how many there are."""
LINE_EVERY = 10.0
"""Seconds between progress lines."""
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call a listener at each item of the loops of this thread in the block, in place of a bar and of log lines."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def track(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Yield the items, and show how many are done: as a bar on a terminal, as log lines elsewhere."""
    listener = _listener.get()
    if listener is None and sys.stdout.isatty():
        yield from rich_track(items, what, transient=True)
        return
    next_line = time.monotonic() + LINE_EVERY
    for done, item in enumerate(items):
        if listener is not None:
            listener(what, done, len(items))
        elif time.monotonic() > next_line:
            log.info("%s: %d of %d", what, done, len(items))
            next_line = time.monotonic() + LINE_EVERY
        yield item


def bar() -> Progress:
    """Return a progress bar on standard error, which appears only on a terminal and disappears at its end."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)

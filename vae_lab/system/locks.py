"""A file lock on a folder, with the process that holds it."""

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

try:
    import fcntl
except ImportError:  # Windows, where nobody is kept from a folder that another process works in
    fcntl = None

LOCK = ".lock"
"""The file in a run folder that the process at work in it holds locked."""
POLL = 0.2
"""Seconds between two looks at a folder that another process holds."""
PATIENCE = 5.0  # seconds in which those who merely look at a lock should have gone


class Holder(NamedTuple):
    """The process that works in a folder, and the command that it belongs to."""

    host: str
    pid: int
    command: str


@contextmanager
def hold(folder: Path, *, waits: bool = False) -> Iterator[bool]:
    """Lock a folder while the block runs, and give whether that succeeded; the system unlocks it if the process dies.

    Args:
        folder: is created if it does not exist.
        waits: whether to wait for another process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        while not _locked(file):
            if not waits:
                yield False
                return
            time.sleep(POLL)
        file.truncate(0)
        file.write(json.dumps(Holder(socket.gethostname(), os.getpid(), os.environ.get("VAE_LAB_RUN", ""))))
        file.flush()
        yield True


def _locked(file: TextIO) -> bool:
    """Return whether the lock is ours now.

    Who merely looks at it, as `holder` does, shares it for a moment. So a lock that can be shared with us is held by
    nobody at work, and we ask again, at moments of chance, as others may do the same.
    """
    if fcntl is None:
        return True
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            fcntl.flock(file, fcntl.LOCK_UN)
            if time.monotonic() > deadline:  # a process that was stopped while it looked
                return False
            time.sleep(random.uniform(0, 1e-3))  # noqa: S311
        else:
            return True


def holder(folder: Path) -> Holder | None:
    """Return the process that works in `folder`, or None."""
    if fcntl is None:
        return None
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _parsed(file.read())
    except FileNotFoundError:
        pass
    return None


def _parsed(text: str) -> Holder:
    try:
        return Holder(*json.loads(text))
    except (ValueError, TypeError):  # it has the lock, and has not yet said who it is
        return Holder("", 0, "")

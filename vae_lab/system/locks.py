"""A file lock on a folder; the file names the process that holds the lock."""

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
except ImportError:  # on Windows folders are not locked
    fcntl = None

LOCK = ".lock"
"""The file in a run folder that is locked by the process that works in it."""
POLL = 0.2
"""Seconds between two looks at a folder that another process has locked."""
PATIENCE = 5.0  # seconds to wait for processes that only look at the lock


class Holder(NamedTuple):
    """The process that has locked a folder: host, process id, and id of its command."""

    host: str
    pid: int
    command: str


@contextmanager
def hold(folder: Path, *, waits: bool = False) -> Iterator[bool]:
    """Lock a folder during the `with` block, and yield whether the lock was acquired.

    The operating system releases the lock when the process ends.

    Args:
        folder: is created if it does not exist.
        waits: whether to wait for another process that has locked it.
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
    """Try to acquire the lock, and return whether this succeeded.

    `holder` shares the lock for a moment in order to look at it. A lock that can be shared is therefore not held by a
    process that works in the folder, and is tried again, after a random pause because other processes try again too.
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
            if time.monotonic() > deadline:  # a process was suspended while it looked at the lock
                return False
            time.sleep(random.uniform(0, 1e-3))  # noqa: S311
        else:
            return True


def holder(folder: Path) -> Holder | None:
    """Return the process that has locked `folder`, or None if it is not locked."""
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


def sees_lock(folder: Path) -> bool:
    """Return whether `holder` tells for certain that no process works in a folder: one of this host locked it last."""
    try:
        last = _parsed((folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False
    return fcntl is not None and last.host == socket.gethostname()


def _parsed(text: str) -> Holder:
    try:
        return Holder(*json.loads(text))
    except (ValueError, TypeError):  # the holder has not written its name yet
        return Holder("", 0, "")

"""Home and cache folders, and checks that a path can be written.

A process in a container often has a user id without a name, no HOME, or a home that it cannot write to. Everything that
vae_lab keeps between runs goes through `cache_folder`.
"""

import logging
import os
import stat
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from vae_lab.errors import StorageError

log = logging.getLogger(__name__)

LIBRARY_FOLDERS = {
    "MPLCONFIGDIR": (("XDG_CONFIG_HOME", ".config", "matplotlib"), ("XDG_CACHE_HOME", ".cache", "matplotlib")),
    "WANDB_CACHE_DIR": (("XDG_CACHE_HOME", ".cache", "wandb"),),
    "WANDB_CONFIG_DIR": (("XDG_CONFIG_HOME", ".config", "wandb"),),
    "WANDB_DATA_DIR": (("XDG_DATA_HOME", ".local/share", "wandb"),),
}
"""Variables of other libraries, and the folders that each uses by default: an XDG variable, else a part of the home."""


def expanded(path: object) -> Path:
    """Return a path with a leading ~ replaced by the home.

    A ~name of nobody is left as it is, for it may name a file.

    Raises:
        ValueError: if there is no home.
    """
    text = os.path.expanduser(str(path))  # noqa: PTH111 (Path.expanduser raises for a ~name that it does not know)
    if text == "~" or text.startswith("~/"):
        raise ValueError(f"{path}: this user has no home folder; write the path out, or set HOME.")
    return Path(text)


def seen_from_here(path: Path) -> Path:
    """Return a path as one would type it here: relative where it lies below the current folder."""
    here, path = Path.cwd(), path.absolute()
    return path.relative_to(here) if path.is_relative_to(here) else path


def home_folder() -> Path | None:
    """Return the user's home, or None if it is not known or not there."""
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty one would make the home the working folder
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if os.path.isdir(home) else None  # noqa: PTH112 (Path.is_dir raises where it may not look)


def obstacle(folder: Path) -> OSError | None:
    """Return why no file can be made in `folder`, or None; the folder need not be there, and nothing is left in it."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return error


def require_writable(folder: Path, remedy: str = "name another folder with out=") -> None:
    """Raise StorageError unless a file can be written to `folder`, which need not be there; nothing is left in it.

    Args:
        folder: where files will be written: better told now than after the work.
        remedy: what else can be done, for the message.
    """
    error = obstacle(folder)
    if error is not None:
        raise StorageError(f"{folder.absolute()} cannot be written ({error.strerror}); {remedy}.") from error


def cache_folder() -> Path:
    """Return where vae_lab keeps what it can compute again.

    That is VAE_LAB_CACHE where it is set, else vae_lab in the user's cache folder, else in a temporary folder.
    """
    named = os.environ.get("VAE_LAB_CACHE")
    if named:
        return expanded(named)
    usual = _user_folder("XDG_CACHE_HOME", ".cache", "vae_lab")
    return temporary_home() / "vae_lab" if usual is None or obstacle(usual) else usual


def torch_folder() -> Path:
    """Return where torch keeps downloaded weights."""
    named = os.environ.get("TORCH_HOME")
    if named:
        return expanded(named)
    return _user_folder("XDG_CACHE_HOME", ".cache", "torch") or temporary_home() / "torch"


def kept_path(run: Path, name: str, weights: str) -> Path:
    """Return where a file lies that was computed of a run before; if there is none, where to put it.

    Args:
        run: the run folder.
        name: of the file, below the run folder.
        weights: a hash of the checkpoint that the file is computed of.
    """
    inside = run / name
    if inside.is_file():
        return inside
    outside = _path_in_cache(name, weights)
    return outside if outside.is_file() else place_to_keep(run, name, weights)


def place_to_keep(run: Path, name: str, weights: str) -> Path:
    """Return where to put a file that is computed of a run: in its folder, or in the cache if that is read-only."""
    error = obstacle((run / name).parent)
    if error is None:
        return run / name
    outside = _path_in_cache(name, weights)
    _say_once(
        f"{run} cannot be written ({error.strerror}): what is computed of this run is kept in {outside.parents[1]}"
    )
    return outside


@cache
def _say_once(line: str) -> None:
    log.warning("%s", line)


def _path_in_cache(name: str, weights: str) -> Path:
    return cache_folder() / "runs" / weights / name


def provide_home() -> str | None:
    """Give this process, and those that it starts, folders that can be written where the home has none.

    Returns:
        What was done, in a sentence, or None if the home is as usual.
    """
    home, reasons = home_folder(), []
    if home is None:
        named = os.environ.get("HOME")
        reasons.append(f"HOME={named} is not there" if named else "this user has no home folder")
        os.environ["HOME"] = str(temporary_home())
    blocked = [variable for variable in LIBRARY_FOLDERS if variable not in os.environ and _is_blocked(variable)]
    for variable in blocked:
        os.environ[variable] = str(temporary_home() / variable.lower())
    usual = _user_folder("XDG_CACHE_HOME", ".cache", "vae_lab")
    if blocked or not (os.environ.get("VAE_LAB_CACHE") or (usual and not obstacle(usual))):
        reasons.append(f"the cache folders of {home} cannot be written")
    if not reasons:
        return None
    return f"{reasons[0]}: caches are kept in {temporary_home()}; set HOME to keep them elsewhere."


def _is_blocked(variable: str) -> bool:
    """Return whether a library could not write where it does by default; settings that are there are left to it."""
    folders = [_user_folder(*place) for place in LIBRARY_FOLDERS[variable]]
    readable = variable == "WANDB_CONFIG_DIR" and folders[0] is not None and folders[0].is_dir()
    return not readable and any(folder is None or obstacle(folder) is not None for folder in folders)


def _user_folder(variable: str, default: str, name: str) -> Path | None:
    """Return a folder of the user's by the XDG base directory specification, or None without a home."""
    named, home = os.environ.get(variable), home_folder()
    if named and Path(named).is_absolute():  # others are to be ignored, says the specification
        return Path(named) / name
    return None if home is None else home / default / name


def temporary_home() -> Path:
    """Return a folder for temporary files that belongs to this user alone, the same for all processes."""
    return _private_folder(Path(tempfile.gettempdir()) / f"vae_lab-{_user()}")


@cache
def _private_folder(path: Path) -> Path:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    ours = stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())
    if not ours or stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        return Path(tempfile.mkdtemp(prefix="vae_lab-"))  # anybody may have put something there
    return path


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")

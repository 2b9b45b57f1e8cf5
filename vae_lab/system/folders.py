"""Paths of the home, cache and temporary folders, and checks that a folder can be written.

A process in a container often has a user id without a name, no HOME, or a home that it cannot write to. `cache_folder`
holds everything that vae_lab reuses between runs.
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
"""Other libraries' variables, and the default folders of each: XDG variable, its default below the home, name."""


def expanded(path: object) -> Path:
    """Return a path with a leading ~ or ~name replaced by that user's home folder; an unknown ~name is unchanged.

    Raises:
        ValueError: if the user has no home.
    """
    text = os.path.expanduser(str(path))  # noqa: PTH111 (Path.expanduser raises for an unknown ~name)
    if text == "~" or text.startswith("~/"):
        raise ValueError(f"{path}: this user has no home folder; write the path out, or set HOME.")
    return Path(text)


def seen_from_here(path: Path) -> Path:
    """Return a path relative to the current folder if it lies below it, else the absolute path."""
    here, path = Path.cwd(), path.absolute()
    return path.relative_to(here) if path.is_relative_to(here) else path


def home_folder() -> Path | None:
    """Return the user's home folder, or None if it is unknown or does not exist."""
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # an empty HOME would stand for the working folder
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if os.path.isdir(home) else None  # noqa: PTH112 (Path.is_dir raises without permission)


def obstacle(folder: Path) -> OSError | None:
    """Return the error that would prevent writing into `folder`, or None if writing is possible.

    The folder need not exist and is not created.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return error


def require_writable(folder: Path, remedy: str = "name another folder with out=") -> None:
    """Raise StorageError unless files can be written into `folder`.

    The folder need not exist and is not created.
    """
    error = obstacle(folder)
    if error is not None:
        raise StorageError(f"{folder.absolute()} cannot be written ({error.strerror}); {remedy}.") from error


def cache_folder() -> Path:
    """Return the folder in which vae_lab stores results that can be computed again.

    It is VAE_LAB_CACHE if set, else vae_lab in the user's cache folder, else vae_lab in a temporary folder.
    """
    named = os.environ.get("VAE_LAB_CACHE")
    if named:
        return expanded(named)
    usual = _user_folder("XDG_CACHE_HOME", ".cache", "vae_lab")
    return temporary_home() / "vae_lab" if usual is None or obstacle(usual) else usual


def torch_folder() -> Path:
    """Return the folder in which torch stores downloaded weights (TORCH_HOME)."""
    named = os.environ.get("TORCH_HOME")
    if named:
        return expanded(named)
    return _user_folder("XDG_CACHE_HOME", ".cache", "torch") or temporary_home() / "torch"


def kept_path(run: Path, name: str, weights: str) -> Path:
    """Return the path of a stored result of a run, in its folder or the cache; if missing, the path to write it to.

    `name` is the file's path in the run folder, and `weights` a hash of the checkpoint that it is computed from.
    """
    inside = run / name
    if inside.is_file():
        return inside
    outside = _path_in_cache(name, weights)
    return outside if outside.is_file() else place_to_keep(run, name, weights)


def place_to_keep(run: Path, name: str, weights: str) -> Path:
    """Return the path to write a result of a run to: in the run folder if it can be written, else in the cache."""
    error = obstacle((run / name).parent)
    if error is None:
        return run / name
    outside = _path_in_cache(name, weights)
    _warn_once(
        f"{run} cannot be written ({error.strerror}): results computed from this run are kept in {outside.parents[1]}"
    )
    return outside


@cache
def _warn_once(line: str) -> None:
    log.warning("%s", line)


def _path_in_cache(name: str, weights: str) -> Path:
    return cache_folder() / "runs" / weights / name


def provide_home() -> str | None:
    """Set HOME and the cache variables to temporary folders if the user's own cannot be written.

    They are set in the environment of this process, which child processes inherit.

    Returns:
        A sentence for the log, or None if nothing was changed.
    """
    home, reasons = home_folder(), []
    if home is None:
        named = os.environ.get("HOME")
        reasons.append(f"HOME={named} does not exist" if named else "this user has no home folder")
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
    """Return whether a library, given by its variable such as MPLCONFIGDIR, cannot write its default folders.

    W&B only reads its existing settings, so their folder may be read-only.
    """
    folders = [_user_folder(*place) for place in LIBRARY_FOLDERS[variable]]
    readable = variable == "WANDB_CONFIG_DIR" and folders[0] is not None and folders[0].is_dir()
    return not readable and any(folder is None or obstacle(folder) is not None for folder in folders)


def _user_folder(variable: str, default: str, name: str) -> Path | None:
    """Return the folder `name` in one of the user's XDG base directories, or None if the user has no home."""
    named, home = os.environ.get(variable), home_folder()
    if named and Path(named).is_absolute():  # the specification ignores relative paths
        return Path(named) / name
    return None if home is None else home / default / name


def temporary_home() -> Path:
    """Return a private folder for temporary files, which all processes of this user share."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return _private_folder(Path(tempfile.gettempdir()) / f"vae_lab-{user}")


@cache
def _private_folder(path: Path) -> Path:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    ours = stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())
    if not ours or stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        return Path(tempfile.mkdtemp(prefix="vae_lab-"))  # other users can write to `path`
    return path

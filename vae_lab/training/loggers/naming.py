"""The name of a run in its loggers."""

from pathlib import Path


def run_name(folder: str) -> str:
    """Return the end of a run folder's path, from its date on."""
    return "/".join(Path(folder).absolute().parts[-3:]).partition("outputs/")[2] or Path(folder).name

"""The name of a run in its loggers."""

from pathlib import Path


def run_name(folder: str) -> str:
    """Return the path of a run folder below outputs/, such as date/time, or its name if it is elsewhere."""
    return "/".join(Path(folder).absolute().parts[-3:]).partition("outputs/")[2] or Path(folder).name

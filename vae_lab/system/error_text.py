"""Errors described in one line."""

import difflib
import re
from collections.abc import Collection, Iterable

LOCATING = re.compile(r"Error locating target '(?P<target>[^']*)'[^\n]*(\nfull_key: (?P<key>\S+))?")
"""What Hydra says of a class that cannot be imported."""


def is_in(target: object, packages: Collection[str]) -> bool:
    """Return whether a dotted name begins with one of some packages, exactly."""
    return isinstance(target, str) and target.partition(".")[0] in packages


def import_problem(error: BaseException) -> str | None:
    """Return the sentence on a class that a setting names and that cannot be imported; None of any other error."""
    found = LOCATING.match(str(error)) if type(error).__name__ == "InstantiationException" else None
    if found is None:
        return None
    return f"{found['key']}: " * bool(found["key"]) + unimportable(found["target"], error)


def unimportable(target: str, error: BaseException) -> str:
    """Return the sentence on a class that cannot be imported, from the error that came of trying."""
    while type(error).__name__ in ("InstantiationException", "ImportError") and error.__cause__ is not None:
        error = error.__cause__
    problem = " ".join(str(error).split()).rstrip(".")
    remedy = "name a class that is there"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        parent, _, last = error.name.rpartition(".")
        if "is not a package" in problem:
            problem = f"{parent} has no {last}"
        elif not is_in(parent, [target.partition(".")[0]]):
            remedy = f"install {error.name}, or add its folder to PYTHONPATH"
    elif not isinstance(error, ImportError | AttributeError):
        problem, remedy = f"{type(error).__name__}: {problem}", "HYDRA_FULL_ERROR=1 shows where"
    return f"{target} cannot be imported ({problem}); {remedy}."


def nearest(name: str, known: Iterable[str], n: int = 1) -> str:
    """Return the names most like a name, for a message; a single one only if it is near, else ""."""
    return ", ".join(difflib.get_close_matches(name, list(known), n, cutoff=0.6 if n == 1 else 0.0))


def reason(error: BaseException) -> str:
    """Return in one line what went wrong, below what Hydra wraps around it."""
    unimportable = import_problem(error)
    if unimportable:
        return unimportable
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    text = f"left with exit code {error.code}" if isinstance(error, SystemExit) else str(error).strip()
    return " ".join(text.split())[:500] or type(error).__name__

"""Error messages in one line."""

import difflib
import re
from collections.abc import Collection, Iterable

LOCATING = re.compile(r"Error locating target '(?P<target>[^']*)'[^\n]*(\nfull_key: (?P<key>\S+))?")
"""Hydra's message for a class that cannot be imported."""


def is_in(target: object, packages: Collection[str]) -> bool:
    """Return whether a dotted name such as "torch.nn.Linear" begins with the name of one of the packages."""
    return isinstance(target, str) and target.partition(".")[0] in packages


def import_problem(error: BaseException) -> str | None:
    """Return a message if `error` is Hydra's for a class that cannot be imported, else None."""
    found = LOCATING.match(str(error)) if type(error).__name__ == "InstantiationException" else None
    if found is None:
        return None
    return f"{found['key']}: " * bool(found["key"]) + unimportable(found["target"], error)


def unimportable(target: str, error: BaseException) -> str:
    """Return the message for a class `target` whose import raised `error`."""
    while type(error).__name__ in ("InstantiationException", "ImportError") and error.__cause__ is not None:
        error = error.__cause__
    problem = " ".join(str(error).split()).rstrip(".")
    remedy = "name a class that exists"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        parent, _, last = error.name.rpartition(".")
        if "is not a package" in problem:
            problem = f"{parent} has no {last}"
        elif not is_in(parent, [target.partition(".")[0]]):
            remedy = f"install {error.name}, or add its folder to PYTHONPATH"
    elif not isinstance(error, ImportError | AttributeError):
        problem, remedy = f"{type(error).__name__}: {problem}", "HYDRA_FULL_ERROR=1 shows the traceback"
    return f"{target} cannot be imported ({problem}); {remedy}."


def nearest(name: str, known: Iterable[str], n: int = 1) -> str:
    """Return the `n` known names most similar to `name`, joined by commas; for n = 1, a close match or ""."""
    return ", ".join(difflib.get_close_matches(name, list(known), n, cutoff=0.6 if n == 1 else 0.0))


def reason(error: BaseException) -> str:
    """Return an error's message in one line; for Hydra's InstantiationException, the message of its cause."""
    unimportable = import_problem(error)
    if unimportable:
        return unimportable
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    text = f"exited with code {error.code}" if isinstance(error, SystemExit) else str(error).strip()
    return " ".join(text.split())[:500] or type(error).__name__

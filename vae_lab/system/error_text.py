"""Error messages in one line."""

import difflib
import re
import sys
from collections.abc import Collection, Iterable

from vae_lab.system.config_dir import CONF

LOCATING = re.compile(r"Error locating target '(?P<target>[^']*)'[^\n]*(\nfull_key: (?P<key>\S+))?")
"""Hydra's message for a class that cannot be imported."""
CALLING = re.compile(r"Error in call to target '(?P<target>[^']*)':\n.*\nfull_key: (?P<key>\S+)", re.DOTALL)
"""Hydra's message for a class that raised an error when it was called with its settings."""
UNKNOWN = re.compile(r"(?P<owner>[\w.]+?)(\.__init__)?\(\) got an unexpected keyword argument '(?P<name>\w+)'")
MISSING = re.compile(
    r"(?P<owner>[\w.]+?)(\.__init__)?\(\) missing \d+ required [\w -]+ arguments?: (?P<names>'(?P<first>\w+)'.*)"
)
"""Python's messages for a call with an argument too many or too few."""


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


def argument_problem(error: BaseException) -> str | None:
    """Return a message if `error` is Hydra's for a class with a setting too many or too few, else None."""
    called = CALLING.match(str(error)) if type(error).__name__ == "InstantiationException" else None
    if called is None or not isinstance(error.__cause__, TypeError):
        return None
    module, _, name = called["target"].rpartition(".")
    group = called["key"].rpartition(".")[2]  # model.likelihood is ${likelihood}
    key = group if (CONF / group).is_dir() else called["key"]
    return wrong_arguments(key, error.__cause__, getattr(sys.modules.get(module), name, None))


def wrong_arguments(key: str, error: TypeError, target: object = None) -> str | None:
    """Return the message for a setting `key` whose class was called with an argument too many or too few, else None.

    Args:
        key: the dotted name of the setting, such as "task.perceptual".
        error: the error of the call.
        target: the class or function that was called; None if `error` names it.
    """
    found = UNKNOWN.match(str(error)) or MISSING.match(str(error))
    if found is None:
        return None
    owner, called = found["owner"], getattr(target, "__name__", found["owner"])
    is_own = owner in {called, *(base.__name__ for base in getattr(target, "__mro__", ()))}  # or that of a part
    owner = called if is_own else owner
    if found.re is MISSING:
        return f"{key}: {owner} requires {found['names']}; +{key}.{found['first']}=… adds it."
    remedy = f"~{key}.{found['name']} removes it" if is_own else "remove it"
    return f"{key}: {owner} has no setting {found['name']}; {remedy}, or choose a class that has it."


def nearest(name: str, known: Iterable[str], n: int = 1) -> str:
    """Return the `n` known names most similar to `name`, joined by commas; for n = 1, a close match or ""."""
    return ", ".join(difflib.get_close_matches(name, list(known), n, cutoff=0.6 if n == 1 else 0.0))


def reason(error: BaseException) -> str:
    """Return an error's message in one line; for Hydra's InstantiationException, the message of its cause."""
    problem = import_problem(error) or argument_problem(error)
    if problem:
        return problem
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    text = f"exited with code {error.code}" if isinstance(error, SystemExit) else str(error).strip()
    return " ".join(text.split())[:500] or type(error).__name__

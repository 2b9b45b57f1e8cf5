"""Packages beside vae_lab whose classes a run folder may name (`trust=`).

A stored config names the classes to make and their arguments, so the author of a run folder chooses both.
Of vae_lab only the classes that it ships for a role are made. Of a trusted package every class and function that
is defined in it may be called, with any plain values. That is why the standard library and the libraries that vae_lab
is built on cannot be trusted: they hold functions that run, load or fetch whatever their arguments say.
"""

import importlib.util
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vae_lab.system.error_text import unimportable

OWN = ("hydra_plugins", "vae_lab")
LIBRARIES = (
    "PIL",
    "functorch",
    "hydra",
    "jaxtyping",
    "jinja2",
    "joblib",
    "lightning",
    "matplotlib",
    "mpl_toolkits",
    "numpy",
    "omegaconf",
    "plotly",
    "pydevd_plugins",
    "pylab",
    "rich",
    "scipy",
    "sklearn",
    "threadpoolctl",
    "torch",
    "torchgen",
    "torchmetrics",
    "torchvision",
    "wandb",
    "yaml",
)
"""What pyproject.toml requires, by all names that it is imported by."""
Trust = str | Sequence[str] | None
"""A setting `trust`: a package, several, or none."""


NEVER = sys.stdlib_module_names.union(OWN, LIBRARIES)


def read_trust(trust: object) -> tuple[str, ...]:
    """Return the packages that a setting `trust` names: a name, a list of names, or None for none.

    Raises:
        ValueError: if one of them is no package, or none that a run folder can be trusted with.
    """
    names = [] if trust is None else [trust] if isinstance(trust, str) else trust
    if not isinstance(names, Collection) or isinstance(names, Mapping):
        raise ValueError(f"trust={trust} is no list of packages; name them as in trust=[mylab].")
    for name in names:
        require_package(name)
    return tuple(names)


def require_package(name: Any) -> None:  # noqa: ANN401
    """Raise ValueError unless a name is that of a package which can be trusted, and which is there."""
    if not isinstance(name, str) or not is_name(name):
        top = str(name).partition(".")[0]
        remedy = f"name the whole package, trust=[{top}]" if is_name(top) else "name packages, as in trust=[mylab]"
        raise ValueError(f"trust=[{name}]: {name} is no package; {remedy}.")
    if name in OWN:
        raise ValueError(f"trust=[{name}]: what vae_lab ships is admitted in its role without trust; leave {name} out.")
    if name in NEVER:
        raise ValueError(
            f"trust=[{name}]: {name} belongs to Python or to what vae_lab is built on, and has functions that run,"
            " load or fetch anything; trust a package of your own, with a class that uses it."
        )
    if not is_there(name):
        raise ValueError(
            f"trust=[{name}]: there is no package {name} here; install it, or add its folder to PYTHONPATH."
        )


def is_name(name: str) -> bool:
    """Return whether a text can be the name of a package, or of something in one, and is no name that Python sets."""
    return name.isidentifier() and not name.startswith("__")


def is_there(name: str) -> bool:
    """Return whether a package could be imported; it is not."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # it was put into sys.modules by hand
        return name in sys.modules


def defined_name(target: str) -> str:
    """Return the name under which a class or function was defined, which may be in another package; it is imported.

    Raises:
        ValueError: if there is no class or function of that name.
    """
    from hydra._internal.utils import _locate  # what `instantiate` looks names up with

    if not all(map(is_name, target.split("."))):
        raise ValueError(f"{target!r:.200} is no name of a class.")
    try:
        found = _locate(target)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise ValueError(unimportable(target, error)) from error
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not callable(found) or not isinstance(module, str) or not isinstance(name, str):
        raise ValueError(f"{target} is no class.")
    return f"{module}.{name}"

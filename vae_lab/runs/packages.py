"""Packages other than vae_lab whose classes a run folder may use (`trust=`).

A stored config names classes and their arguments, so the author of a run folder chooses both. From vae_lab, only the
classes that it ships for a role are instantiated. From a trusted package, every class and function may be called with
any plain values. The standard library and the dependencies of vae_lab therefore cannot be trusted: they have functions
that run, load or download anything that their arguments name.
"""

import importlib.util
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vae_lab.system.error_text import unimportable

OWN = ("hydra_plugins", "vae_lab")
LIBRARIES = (
    "PIL", "functorch", "hydra", "jaxtyping", "jinja2", "joblib", "lightning", "matplotlib", "mpl_toolkits", "numpy",
    "omegaconf", "plotly", "pydevd_plugins", "pylab", "rich", "scipy", "sklearn", "threadpoolctl", "torch", "torchgen",
    "torchmetrics", "torchvision", "wandb", "yaml",
)  # fmt: skip
"""Import names of the requirements in pyproject.toml."""
NEVER = sys.stdlib_module_names.union(OWN, LIBRARIES)
Trust = str | Sequence[str] | None
"""The type of the setting `trust`: a package, several packages, or None."""


def read_trust(trust: object) -> tuple[str, ...]:
    """Return the package names in the setting `trust`, which is a name, a list of names or None.

    Raises:
        ValueError: if a name is not that of an installed package that can be trusted.
    """
    names = [] if trust is None else [trust] if isinstance(trust, str) else trust
    if not isinstance(names, Collection) or isinstance(names, Mapping):
        raise ValueError(f"trust={trust} is not a list of packages; name them as in trust=[mylab].")
    for name in names:
        require_package(name)
    return tuple(names)


def require_package(name: Any) -> None:  # noqa: ANN401
    """Raise ValueError unless `name` is the name of an installed package that may be trusted."""
    if not isinstance(name, str) or not is_name(name):
        top = str(name).partition(".")[0]
        remedy = f"name the whole package, trust=[{top}]" if is_name(top) else "name packages, as in trust=[mylab]"
        raise ValueError(f"trust=[{name}]: {name} is not a package; {remedy}.")
    if name in OWN:
        raise ValueError(f"trust=[{name}]: the classes of vae_lab need no trust; leave {name} out.")
    if name in NEVER:
        raise ValueError(
            f"trust=[{name}]: {name} is part of Python or a dependency of vae_lab, and has functions that run, load or"
            " download anything; trust a package of your own, with a class that uses it."
        )
    if not is_installed(name):
        raise ValueError(
            f"trust=[{name}]: the package {name} is not installed; install it, or add its folder to PYTHONPATH."
        )


def is_name(name: str) -> bool:
    """Return whether a text is a valid name of a package or of an object in one, unlike names such as __main__."""
    return name.isidentifier() and not name.startswith("__")


def is_installed(name: str) -> bool:
    """Return whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module that was put into sys.modules by hand
        return name in sys.modules


def defined_name(target: str) -> str:
    """Import a class or function and return its dotted name in the module that defines it.

    Raises:
        ValueError: if there is no such class or function.
    """
    from hydra._internal.utils import _locate  # the lookup of `instantiate`

    if not all(map(is_name, target.split("."))):
        raise ValueError(f"{target!r:.200} is not the name of a class.")
    try:
        found = _locate(target)
    except (Exception, SystemExit) as error:  # importing a module can raise anything
        raise ValueError(unimportable(target, error)) from error
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not callable(found) or not isinstance(module, str) or not isinstance(name, str):
        raise ValueError(f"{target} is not a class.")
    return f"{module}.{name}"

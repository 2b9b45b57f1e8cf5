"""The types of vae_lab's functions, which the tests check at each call; to be imported before vae_lab.

jaxtyping's import hook decorates every function. Its decorator binds the arguments of a call and checks them twice, for
the sake of arrays' shapes; this module replaces it for functions that have none, where beartype suffices.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
_checked = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def has_arrays(annotation: object) -> bool:
    """Return whether an annotation tells the shape of an array, at any depth; of a text that is not known."""
    is_array = isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or isinstance(annotation, str) or any(map(has_arrays, get_args(annotation)))


def jaxtyped(decorated: Any = None, *, typechecker: Any) -> Any:
    """Return what jaxtyping's decorator of this name does, by beartype alone where no array is annotated.

    A function is compiled for that at its first call, as most are not called in one process.
    """
    if decorated is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(decorated):
        return _jaxtyped(decorated, typechecker=typechecker)
    checked: Callable[..., Any] | None = None

    @functools.wraps(decorated)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if jaxtyping.config.jaxtyping_disable:
            return decorated(*args, **kwargs)
        if checked is None:
            with_arrays = any(map(has_arrays, decorated.__annotations__.values()))
            checked = _jaxtyped(decorated, typechecker=typechecker) if with_arrays else _checked(decorated)
        return checked(*args, **kwargs)

    return call


jaxtyping.jaxtyped = jaxtyped

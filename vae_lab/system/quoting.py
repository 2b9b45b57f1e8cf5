"""Quoting of Hydra overrides, for Hydra's grammar and for the shell."""

import re
import shlex
from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

OVERRIDE = re.compile(r"([+~]{0,2}[A-Za-z_][\w.@:/-]*)=(.*)", re.DOTALL)
"""An override: the setting or group, and its value."""
COMPOSED = re.compile(r"""\s*(["'\[{]|(choice|range|interval|glob|shuffle|sort|tag|extend_list)\()""")
"""The start of a value with structure: a quoted text, list, mapping or function."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""The start of a text that a spreadsheet would compute."""
TEXTS = ("notes",)
"""Settings that are prose, in which a comma separates no values of a sweep."""


def quote_override(key: str, value: object) -> str:
    """Return the override `key=value`, with the value in quotes if Hydra would otherwise read another value."""
    text = str(value)
    plain = f"{key}={text}"
    parsed = parse(plain)
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == text and "${" not in text:
        return plain
    escaped = text.replace("${", r"\${")  # an unescaped ${ would start an interpolation
    return f"{key}={quote_text(escaped)}"


def quote_typed(text: str, *, sweeps: bool = False) -> str:
    """Return an override from the command line, with its value in quotes if Hydra cannot parse it without them.

    A value that begins like a list, a mapping, a quoted text or a function is returned unchanged.

    Args:
        text: an argument of a command line.
        sweeps: whether a comma separates the values of a sweep; a value with a comma is then returned unchanged.
    """
    found = OVERRIDE.fullmatch(text)
    if found is None or COMPOSED.match(found[2]):
        return text
    is_prose = found[1] in TEXTS and "," in found[2]
    if not is_prose and (parse(text) is not None or (sweeps and "," in found[2])):
        return text
    return f"{found[1]}={quote_text(found[2])}"


def literal(text: str) -> str:
    """Return a text for a spreadsheet: a leading quote is added to formulas; numbers and other texts are unchanged."""
    if not text.startswith(FORMULA) or re.fullmatch(r"[+-]?\d[\d.]*(e[+-]?\d+)?", text):
        return text
    return f"'{text}"


def quote_text(text: str) -> str:
    """Return a text in double quotes, which Hydra takes literally, for example as an element of a list."""
    return QuotedString(text, Quote.double).with_quotes()


def command_line(command: str, overrides: Sequence[str] = (), flags: Sequence[str] = ()) -> str:
    """Return the shell line that runs a command of vae_lab; `flags` are options such as --config-dir."""
    return shlex.join(["python", "-m", f"vae_lab.{command}", *flags, *overrides])


_parser = cache(OverridesParser.create)


def parse(text: str) -> Override | None:
    """Return Hydra's `Override` object for the text of an override, or None if its syntax is invalid."""
    try:
        return _parser().parse_override(text)
    except HydraException:
        return None


def key(override: str) -> str:
    """Return the name of the setting or config group in an override, such as "model" in "+model=mlp"."""
    return override.partition("=")[0].lstrip("+~")

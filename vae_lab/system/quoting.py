"""Quoting of overrides for Hydra's grammar and for the shell."""

import re
import shlex
from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

OVERRIDE = re.compile(r"([+~]{0,2}[A-Za-z_][\w.@:/-]*)=(.*)", re.DOTALL)
"""A setting or group, and what is typed for it."""
COMPOSED = re.compile(r"""\s*(["'\[{]|(choice|range|interval|glob|shuffle|sort|tag|extend_list)\()""")
"""How a value begins that means more than its letters."""


def quote_override(key: str, value: object) -> str:
    """Return the override that gives a setting this text, letter by letter, in quotes where Hydra wants them."""
    text = str(value)
    plain = f"{key}={text}"
    parsed = parse(plain)
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == text and "${" not in text:
        return plain
    return _quoted(key, text.replace("${", r"\${"))  # else it would be the value of another setting


def quote_typed(text: str, *, sweeps: bool = False) -> str:
    """Return an override as it was typed, with its value in quotes if Hydra cannot read it as it is.

    A value that begins like a list, a mapping, a quoted text or a function is returned unchanged.

    Args:
        text: an argument of a command line.
        sweeps: whether a comma separates the values of a sweep; what holds one is then returned unchanged.
    """
    found = OVERRIDE.fullmatch(text)
    if found is None or parse(text) is not None or COMPOSED.match(found[2]) or (sweeps and "," in found[2]):
        return text
    return _quoted(found[1], found[2])


def _quoted(key: str, text: str) -> str:
    return f"{key}={quote_text(text)}"


def quote_text(text: str) -> str:
    """Return a text in the quotes in which Hydra takes it letter by letter, as in a list."""
    return QuotedString(text, Quote.double).with_quotes()


def command_line(command: str, overrides: Sequence[str] = (), flags: Sequence[str] = ()) -> str:
    """Return the line to type into a shell.

    Args:
        command: "train", "report" and so on.
        overrides: as Hydra reads them.
        flags: other arguments, such as --config-dir.
    """
    return shlex.join(["python", "-m", f"vae_lab.{command}", *flags, *overrides])


def parse(text: str) -> Override | None:
    """Return an override as Hydra understands it, or None if it does not."""
    try:
        return _parser().parse_override(text)
    except HydraException:
        return None


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def key(override: str) -> str:
    """Return the setting or group that an override names."""
    return override.partition("=")[0].lstrip("+~")

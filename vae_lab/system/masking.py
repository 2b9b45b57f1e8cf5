"""Masking of secrets in text: values of keys such as `password`, and `user:password@` in URLs.

A secret is also masked wherever else its value occurs: an interpolation copies it to other settings, and an error may
quote it. This applies to values of at least six characters; shorter ones are often ordinary words and numbers.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "***"
MIN_LENGTH = 6
WORDS = {"password", "passwd", "passphrase", "secret", "token", "apikey"}
KINDS_OF_KEY = {"api", "access", "private"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
REFERENCE = re.compile(r"\$\{[\w.:]+\}")
OVERRIDE = re.compile(r"([+~]{0,2}[\w./@-]+=)(.*)", re.DOTALL)
KEY = re.compile(r"""(?<![\w./@-])[\w./@-]*\w["']?\s*[=:]\s*""")
VALUE = re.compile(r""""[^"]*"|'[^']*'|\[[^\]]*\]|\$?\{[^}]*\}|[^\s,;&|)}\]"']+""")
ADDRESS = re.compile(r"""(?<=://)[^\s/"']+@(?=[\w\[])""")
LOGIN = re.compile(r"""(?<![\w/:.+-])[\w.+-]{1,64}:[^\s/@:"']{1,200}@(?=[A-Za-z])""")

_known: set[str] = set()


def remember(config: object) -> None:
    """Add the secrets in a config to those that `masked` and `MaskingFilter` mask in this process."""
    _known.update(_secrets(config))


def masked(config: Any, *, remembered: bool = True) -> Any:  # noqa: ANN401
    """Return a copy of a config, summary, list of overrides or text with `***` in place of each secret.

    Class names are kept, and so are references such as `${oc.env:TOKEN}`, which name a secret without its value.

    Args:
        config: the content to mask.
        remembered: whether to mask the secrets given to `remember` too. A hash must not depend on them, because it must
            be the same in every process.
    """
    known = _known if remembered else set[str]()
    values = {value for value in known | set(_secrets(config)) if len(value) >= MIN_LENGTH}
    return _masked(config, sorted(values, key=len, reverse=True))


def _masked(node: Any, values: list[str], key: str = "") -> Any:  # noqa: ANN401
    if isinstance(node, dict):
        inner = "" if "_target_" in node else key
        return {
            name: value if name == "_target_" else _masked(value, values, f"{inner}.{name}" if inner else str(name))
            for name, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [_masked(value, values, key) for value in node]
    if _is_secret(key, node) or str(node) in values:
        return HIDDEN
    return _masked_text(node, values) if isinstance(node, str) else node


def _masked_text(text: str, values: list[str]) -> str:
    """Return a text with its secrets masked; of an override such as password=…, the whole value is masked."""
    override = OVERRIDE.fullmatch(text)
    if override and _is_secret(override[1], override[2]):
        return override[1] + HIDDEN
    text = LOGIN.sub(f"{HIDDEN}@", ADDRESS.sub(f"{HIDDEN}@", text))
    for found in reversed(list(_values(text))):
        text = text[: found.start()] + HIDDEN + text[found.end() :]
    for value in values:
        text = text.replace(value, HIDDEN)
    return text


def _values(text: str) -> Iterator[re.Match[str]]:
    """Yield the regular-expression matches of the secrets that a text gives as `key=value` or `key: value`."""
    end = 0
    for key in KEY.finditer(text):
        if key.start() < end or not any(_named(key[0])):
            continue
        value = VALUE.match(text, key.end())
        if value and _is_secret(key[0], value[0]):
            end = value.end()
            yield value


def _is_secret(key: str, value: object) -> bool:
    """Return whether a value is a secret, judged by its key and its type.

    A number is a secret only if the last word of the key says so: `token: 123456` is one, `token_size: 64` is not.
    """
    if value is None or isinstance(value, bool | dict | list) or str(value) in ("", "null", "true", "false", HIDDEN):
        return False
    if REFERENCE.fullmatch(str(value)):
        return False
    named = _named(key)
    is_number = not isinstance(value, str) or re.fullmatch(r"[\d.,eE+-]+", value)
    return bool(named and (named[-1] if is_number else any(named)))


def _named(key: str) -> list[bool]:
    """Return a bool for each word of a key: whether it marks a secret, as `token` does, or `key` after `api`."""
    words = [word.lower() for word in WORD.findall(key)]
    pairs = zip(["", *words], words, strict=False)
    return [word in WORDS or (word == "key" and before in KINDS_OF_KEY) for before, word in pairs]


def _secrets(node: object, key: str = "") -> Iterator[str]:
    """Yield the secrets at any depth of a config: values of secret keys, and passwords in URLs."""
    if isinstance(node, dict):
        inner = "" if "_target_" in node else key
        for name, value in node.items():
            yield from _secrets(value, f"{inner}.{name}" if inner else str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _secrets(value, key)
    elif _is_secret(key, node):
        yield str(node)
    elif isinstance(node, str):
        override = OVERRIDE.fullmatch(node)
        if override and _is_secret(*override.groups()):
            yield override[2].strip("\"'")
        yield from (found[0].strip("\"'") for found in _values(node))
        for found in (*ADDRESS.finditer(node), *LOGIN.finditer(node)):
            yield found[0].removesuffix("@").rpartition(":")[2]


class MaskingFilter(logging.Filter):
    """A logging filter that masks the secrets in log messages."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the secrets in a log record and return True, so that it is logged."""
        text = record.getMessage()
        hidden = masked(text)
        if hidden != text:
            record.msg, record.args = hidden, None
        return True

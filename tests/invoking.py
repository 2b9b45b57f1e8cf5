"""Commands in the tests' own process, which they leave as it was."""

import logging
import sys
from collections.abc import Callable

import pytest

from vae_lab.commands import run


def invoke(main: Callable[[], None], name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of the command with these arguments; its folders are those of the working directory."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    for variable in ("HYDRA_FULL_ERROR", "VAE_LAB_RUN"):  # which the command sets
        monkeypatch.setenv(variable, "0")
    handlers = list(logging.getLogger().handlers)
    try:
        return run(main.__wrapped__, name)  # pyright: ignore[reportFunctionMemberAccess]
    finally:
        for handler in set(logging.getLogger().handlers) - set(handlers):
            handler.close()
        logging.getLogger().handlers[:] = handlers

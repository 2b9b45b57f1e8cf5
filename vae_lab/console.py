"""How log lines reach the terminal."""

import logging
import sys
from typing import TextIO


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever standard output is at that moment, so that lines pass above a running progress bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The current standard output."""
        return sys.stdout

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing if nobody reads any more, as in `train | head`."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)

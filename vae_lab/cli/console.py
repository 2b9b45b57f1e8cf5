"""The format of log lines on the terminal."""

import logging
import sys
from typing import TextIO


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """A handler that writes to the current standard output, so that lines appear above a progress bar.

    Attributes:
        prefix: the beginning of each line; in a worker of a sweep it names the trial.
    """

    prefix = ""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The current standard output."""
        return sys.stdout

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with a backslash sequence for each character that the terminal cannot encode."""
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return (self.prefix + super().format(record)).encode(encoding, "backslashreplace").decode(encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore a BrokenPipeError, as in `train | head`; report any other error as usual."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)

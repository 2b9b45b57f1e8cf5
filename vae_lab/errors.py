"""Errors that users can cause, with their exit codes, and checks of settings.

The message is one sentence that names the value and the remedy, because it is all that the user sees.

    0 all done                      5 storage
    2 configuration                 6 resources
    3 data                          7 part of a sweep or of the files failed
                                    75 the time limit that was set came before the last batch
    4 diverged                      128 + n   ended by signal n: 129 SIGHUP, 130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM

1 is left for errors of vae_lab itself, which come with their traceback.
"""

import signal
from collections.abc import Collection


class DataError(Exception):
    """The images are missing, unreadable or too few."""


class DivergedError(Exception):
    """Training left the finite numbers."""


class StorageError(Exception):
    """A folder cannot be written."""


class TimeLimit(Exception):  # noqa: N818
    """A run was tested and is sound, but its time was up before all batches that were asked for."""


class FilesFailed(Exception):  # noqa: N818
    """Some of the files could not be used; all others were."""


class SweepFailed(Exception):  # noqa: N818
    """Some trials of a sweep have no result; all others have one."""


class RanksLost(Exception):  # noqa: N818
    """Of the processes that train one model together, one is gone.

    Args:
        message: what is known of it.
        code: the exit code of the run.
        status: the word that the run's summary has for its end.
        account: what the user is told, with the traceback that the process left; None if the message is all.
    """

    def __init__(self, message: str, code: int = 6, status: str = "failed", account: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.account = message if account is None else account


class Interrupted(BaseException):
    """A signal ended the work; no `Exception`, so that a sweep does not go on to its next job."""

    def __init__(self, number: int, how: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}, {how}.")
        self.number = number
        self.how = how

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, str]]:
        """Return what makes it again in another process, as a launcher's workers send it to their parent."""
        return Interrupted, (self.number, self.how)


def require_count(name: str, value: object, least: int = 1, hint: str = "") -> None:
    """Raise ValueError unless a setting is a whole number of at least `least`; `hint` ends the sentence."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value}{hint}.")


def require_number(name: str, value: object, interval: str = "[0, inf)", hint: str = "") -> None:
    """Raise ValueError unless a setting is a number in an interval, as in "(0, 1]"; `hint` ends the sentence."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    within = isinstance(value, int | float) and (
        low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")
    )
    if not within:
        words = "be 0 or a positive number" if interval[0] == "[" and low == 0 else "be a positive number"
        raise ValueError(f"{name} must {words if high == float('inf') else f'lie in {interval}'}, not {value}{hint}.")


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless a setting is one of some choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value}.")


CODES: dict[type[BaseException], int] = {
    ValueError: 2,
    DataError: 3,
    DivergedError: 4,
    StorageError: 5,
    OSError: 5,
    MemoryError: 6,
    FilesFailed: 7,
    SweepFailed: 7,
    TimeLimit: 75,
}
NAMES = {
    "MisconfigurationException": 2,
    "OutOfMemoryError": 6,
    "MlflowException": 5,  # a server or database that cannot be reached
}  # so that Lightning and torch need not be imported to ask
PARTLY_FAILED = 7


def exit_code(error: BaseException) -> int:
    """Return the documented exit code for an error; 1 if it is one of our own."""
    if isinstance(error, Interrupted):
        return 128 + error.number
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, RanksLost):
        return error.code
    if type(error).__name__ in NAMES:
        return NAMES[type(error).__name__]
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return 6
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), 1)


def status(error: BaseException) -> str:
    """Return the word that a run's summary has for its end."""
    if isinstance(error, RanksLost):
        return error.status
    asked = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
    if asked or type(error).__name__ == "UncompletedJobError":  # a cluster's time limit, raised inside the run
        return "interrupted"
    if type(error).__name__ == "TrialPruned":
        return "pruned"
    if isinstance(error, TimeLimit):
        return "stopped"
    return "diverged" if isinstance(error, DivergedError) or exit_code(error) == CODES[DivergedError] else "failed"

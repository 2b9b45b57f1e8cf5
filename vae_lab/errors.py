"""Errors that users can cause, their exit codes, and checks of settings.

An error's message is one sentence that names the value and the remedy, because the user sees nothing else.

    0 all done                      5 storage
    2 configuration                 6 resources
    3 data                          7 part of a sweep or of the files failed
                                    75 the time limit was reached before the last batch
    4 diverged                      128 + n   ended by signal n: 129 SIGHUP, 130 Ctrl-C, 138 SIGUSR1, 143 SIGTERM

1 stands for a fault in vae_lab itself, which is printed with its traceback.
"""

import signal
from collections.abc import Collection


class DataError(Exception):
    """The images are missing, unreadable or too few."""


class DivergedError(Exception):
    """Training diverged: a loss, gradient or weight is not finite, or the loss has risen above its start."""


class StorageError(Exception):
    """A folder cannot be written."""


class TimeLimit(Exception):  # noqa: N818
    """A run reached its time limit before its last batch; its results up to then are valid."""


class FilesFailed(Exception):  # noqa: N818
    """Some files could not be used; all other files were processed."""


class SweepFailed(Exception):  # noqa: N818
    """Some trials of a sweep failed; all other trials have a result."""


class RanksLost(Exception):  # noqa: N818
    """One of the processes of a distributed training run has ended before the run did.

    Args:
        message: why the process ended.
        code: the exit code of the run.
        status: the run's status in summary.json.
        account: the text to print, which includes the traceback of the process; None prints the message.
    """

    def __init__(self, message: str, code: int = 6, status: str = "failed", account: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.account = message if account is None else account


class Interrupted(BaseException):
    """A signal, such as Ctrl-C, ended the command.

    It is not an `Exception`, so that a sweep does not start its next job.
    """

    def __init__(self, number: int, how: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}, {how}.")
        self.number = number
        self.how = how

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int, str]]:
        """Return the constructor and its arguments, for pickling.

        The workers of a Hydra launcher send this error to their parent process.
        """
        return Interrupted, (self.number, self.how)


def require_count(name: str, value: object, least: int = 1, hint: str = "") -> None:
    """Raise ValueError, with `hint` at its end, unless a setting is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value}{hint}.")


def require_number(name: str, value: object, interval: str = "[0, inf)", hint: str = "") -> None:
    """Raise ValueError, with `hint` at its end, unless a setting is a number in an interval such as "(0, 1]"."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    within = isinstance(value, int | float) and (
        low < value < high or (value == low and interval[0] == "[") or (value == high and interval[-1] == "]")
    )
    if not within:
        words = "be a finite number of at least 0" if interval[0] == "[" else "be a finite number above 0"
        raise ValueError(f"{name} must {words if high == float('inf') else f'lie in {interval}'}, not {value}{hint}.")


def require_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless a setting is one of `choices`."""
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
}  # names of classes, because importing Lightning and torch is slow
PARTLY_FAILED = 7


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends with this error, from the module's table; 1 for a bug in vae_lab."""
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
    """Return the value of `status` in summary.json for a run that an error ended, such as "diverged"."""
    if isinstance(error, RanksLost):
        return error.status
    stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
    if stopped or type(error).__name__ == "UncompletedJobError":  # submitit raises it at a cluster's time limit
        return "interrupted"
    if type(error).__name__ == "TrialPruned":
        return "pruned"
    if isinstance(error, TimeLimit):
        return "stopped"
    return "diverged" if isinstance(error, DivergedError) or exit_code(error) == CODES[DivergedError] else "failed"

"""A callback that reports an error before the process group is destroyed."""

from collections.abc import Callable

from lightning import Callback, Trainer

from vae_lab.training.tasks.task import Task


class ReportError(Callback):
    """Calls `report` with an error as soon as training raises it, before the launcher can end this process.

    Args:
        report: function called with the error.
    """

    def __init__(self, report: Callable[[BaseException], object]) -> None:
        self.report = report

    def on_exception(self, trainer: Trainer, pl_module: Task, exception: BaseException) -> None:
        """Call `report` with the error."""
        self.report(exception)

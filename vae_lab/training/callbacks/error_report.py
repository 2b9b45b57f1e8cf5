"""An error reported before the process group is destroyed."""

from collections.abc import Callable

from lightning import Callback, Trainer

from vae_lab.training.tasks.task import Task


class TellError(Callback):
    """Hands an error on as soon as training raises it: once others notice, the launcher may end this process.

    Args:
        tell: takes the error.
    """

    def __init__(self, tell: Callable[[BaseException], object]) -> None:
        self.tell = tell

    def on_exception(self, trainer: Trainer, pl_module: Task, exception: BaseException) -> None:
        """Tell."""
        self.tell(exception)

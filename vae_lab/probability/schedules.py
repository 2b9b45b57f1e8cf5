"""Schedules of loss weights such as beta, as functions of the training step."""

from abc import ABC, abstractmethod

from vae_lab.errors import require_count, require_number
from vae_lab.system.printing import PrintsCall


class Schedule(PrintsCall, ABC):
    """Base class of schedules of loss weights, functions of the training step.

    Args:
        nsteps: length of the schedule: an int is a number of batches, a float in (0, 1] is a share of training.
    """

    def __init__(self, nsteps: int | float) -> None:
        if isinstance(nsteps, float) and not 0 < nsteps <= 1:
            raise ValueError(
                f"schedule.nsteps={nsteps} must be a whole number of batches, or a share of training in (0, 1]."
            )
        if not isinstance(nsteps, float):
            require_count("schedule.nsteps", nsteps)
        self.nsteps = nsteps

    def plan(self, total_steps: int | float) -> None:
        """Convert `nsteps` to a number of batches if it is a share of training.

        Args:
            total_steps: number of batches of the whole training.

        Raises:
            ValueError: if `nsteps` is a share of training and `total_steps` is infinite.
        """
        if isinstance(self.nsteps, float):
            if total_steps == float("inf"):
                raise ValueError(
                    f"objective.beta.nsteps={self.nsteps} is a share of training, but the length of training is"
                    " unknown; set it to a number of batches, or set trainer.max_steps or trainer.max_epochs."
                )
            self.nsteps = max(1, round(self.nsteps * total_steps))

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the loss weight after `step` batches."""


class Linear(Schedule):
    """A loss weight that changes linearly from `start` to `end` over `nsteps`, then stays constant.

    The warm-up of Sønderby et al. 2016, Ladder variational autoencoders, https://arxiv.org/abs/1602.02282.
    """

    def __init__(self, start: float, end: float, nsteps: int | float) -> None:
        super().__init__(nsteps)
        self.start = start
        self.end = end

    def __call__(self, step: int) -> float:
        """Return the loss weight after `step` batches."""
        done = min(step / self.nsteps, 1.0)
        return self.start * (1 - done) + self.end * done


class Cyclical(Schedule):
    """A loss weight in cycles of `nsteps`: linear from `start` to `end` for the first share `rise`, then constant.

    Fu et al. 2019, https://arxiv.org/abs/1903.10145; they use 4 cycles with rise 0.5.
    """

    def __init__(self, start: float, end: float, nsteps: int | float, rise: float) -> None:
        super().__init__(nsteps)
        require_number("schedule.rise", rise, "(0, 1]")
        self.start = start
        self.end = end
        self.rise = rise

    def __call__(self, step: int) -> float:
        """Return the loss weight after `step` batches."""
        done = min(step % self.nsteps / (self.rise * self.nsteps), 1.0)
        return self.start * (1 - done) + self.end * done


def value_at(number: float | Schedule, step: int) -> float:
    """Return the value of a schedule after `step` batches, or `number` itself if it is no schedule."""
    return number(step) if isinstance(number, Schedule) else number

"""Schedules of weights such as beta, as functions of the step."""

from abc import ABC, abstractmethod

from vae_lab.errors import require_counts


class Schedule(ABC):
    """A function of the step."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the value after `step` batches."""


class Linear(Schedule):
    """From `start` to `end` over `nsteps` batches, then constant: the warm-up of Sønderby et al. 2016.

    Ladder variational autoencoders, https://arxiv.org/abs/1602.02282.
    """

    def __init__(self, start: float, end: float, nsteps: int) -> None:
        require_counts(schedule__nsteps=nsteps)
        self.start = start
        self.end = end
        self.nsteps = nsteps

    def __call__(self, step: int) -> float:
        """Return the value after `step` batches."""
        done = min(step / self.nsteps, 1.0)
        return self.start * (1 - done) + self.end * done


class Cyclical(Schedule):
    """Again and again from `start` to `end`: linearly for a share `rise` of `nsteps` batches, then constant.

    Fu et al. 2019, https://arxiv.org/abs/1903.10145, who rise over half of each of 4 cycles.
    """

    def __init__(self, start: float, end: float, nsteps: int, rise: float) -> None:
        require_counts(schedule__nsteps=nsteps)
        if not 0 < rise <= 1:
            raise ValueError(f"schedule.rise must be a share above 0 and up to 1, not {rise}.")
        self.start = start
        self.end = end
        self.nsteps = nsteps
        self.rise = rise

    def __call__(self, step: int) -> float:
        """Return the value after `step` batches."""
        done = min(step % self.nsteps / (self.rise * self.nsteps), 1.0)
        return self.start * (1 - done) + self.end * done


def value_at(number: float | Schedule, step: int) -> float:
    """Return a plain number, or what a schedule says after `step` batches."""
    return number(step) if isinstance(number, Schedule) else number

"""Checks of the settings of `VAEGANTask`."""

from collections.abc import Sequence


def read_weight_bounds(weight_bounds: object) -> tuple[float, float]:
    """Return the smallest and the largest weight of the adversarial loss.

    Raises:
        ValueError: if the bounds are not two numbers with 0 <= smallest <= largest.
    """
    numbers = tuple(weight_bounds) if isinstance(weight_bounds, Sequence) else ()
    if len(numbers) != 2 or not all(isinstance(x, int | float) for x in numbers) or not 0 <= numbers[0] <= numbers[1]:
        raise ValueError(
            f"task.weight_bounds={weight_bounds} must be two numbers in increasing order, at least 0, as [0.0,1e4]."
        )
    return numbers

"""The settings of a VAE with opponents, read and checked."""

import math
from collections.abc import Callable, Iterable, Sequence

from torch import nn
from torch.optim import Optimizer


def require_settings(opponents: Sequence[str], *, strength: float, distortion: float, average_decay: float) -> None:
    """Raise ValueError unless there is a discriminator and every number is in its range."""
    if "discriminator" not in opponents:
        raise ValueError("task.opponents must have a discriminator, which the guard watches; or choose task=vae.")
    if not (0 <= strength < math.inf and 0 <= distortion < math.inf and 0 <= average_decay < 1):
        raise ValueError(
            f"task.strength={strength} and task.distortion={distortion} must be finite and at least 0, and"
            f" task.average_decay={average_decay} in [0, 1)."
        )


def read_bounds(bounds: object) -> tuple[float, float]:
    """Return the least and the largest weight of the pull.

    Raises:
        ValueError: if they are no two such numbers.
    """
    numbers = tuple(bounds) if isinstance(bounds, Sequence) else ()
    if len(numbers) != 2 or not all(isinstance(x, int | float) for x in numbers) or not 0 <= numbers[0] <= numbers[1]:
        raise ValueError(f"task.bounds={bounds} must be two numbers that rise from 0 or more, as in [0.0,1e4].")
    return numbers


def opponent_optimizers(make: Callable[..., Optimizer], opponents: Iterable[nn.Module]) -> list[Optimizer]:
    """Return an optimizer for each opponent.

    Raises:
        ValueError: if a number is out of range, naming the keys, which torch does not know.
    """
    try:
        return [make(opponent.named_parameters()) for opponent in opponents]
    except ValueError as error:
        keywords: dict[str, object] = getattr(make, "keywords", {})
        said = ", ".join(f"task.opponent_optimizer.{name}={value}" for name, value in keywords.items())
        raise ValueError(f"{error}: choose another number, of {said}.") from error

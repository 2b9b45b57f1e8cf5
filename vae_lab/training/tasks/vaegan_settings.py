"""Checks of the settings of `VAEGANTask`."""

import math
from collections.abc import Callable, Iterable, Sequence

from torch import nn
from torch.optim import Optimizer


def require_settings(
    adversaries: Sequence[str], *, adversarial_ratio: float, distortion: float, ema_decay: float
) -> None:
    """Raise ValueError unless there is a discriminator and every number is in its range."""
    if "discriminator" not in adversaries:
        raise ValueError("task.adversaries must have a discriminator, which the guard watches; or choose task=vae.")
    if not (0 <= adversarial_ratio < math.inf and 0 <= distortion < math.inf and 0 <= ema_decay < 1):
        raise ValueError(
            f"task.adversarial_ratio={adversarial_ratio} and task.distortion={distortion} must be finite and at least"
            f" 0, and task.ema_decay={ema_decay} in [0, 1)."
        )


def read_weight_bounds(weight_bounds: object) -> tuple[float, float]:
    """Return the least and the largest weight of the adversarial loss.

    Raises:
        ValueError: if they are no two such numbers.
    """
    numbers = tuple(weight_bounds) if isinstance(weight_bounds, Sequence) else ()
    if len(numbers) != 2 or not all(isinstance(x, int | float) for x in numbers) or not 0 <= numbers[0] <= numbers[1]:
        raise ValueError(
            f"task.weight_bounds={weight_bounds} must be two numbers that rise from 0 or more, as in [0.0,1e4]."
        )
    return numbers


def adversary_optimizers(make: Callable[..., Optimizer], adversaries: Iterable[nn.Module]) -> list[Optimizer]:
    """Return an optimizer for each adversary.

    Raises:
        ValueError: if a number is out of range, naming the keys, which torch does not know.
    """
    try:
        return [make(adversary.named_parameters()) for adversary in adversaries]
    except ValueError as error:
        keywords: dict[str, object] = getattr(make, "keywords", {})
        said = ", ".join(f"task.adversary_optimizer.{name}={value}" for name, value in keywords.items())
        raise ValueError(f"{error}: choose another number, of {said}.") from error

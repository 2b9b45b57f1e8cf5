"""Checks of the settings of `VAEGANTask`."""

from collections.abc import Callable, Iterable, Sequence

from torch import nn
from torch.optim import Optimizer


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


def adversary_optimizers(make: Callable[..., Optimizer], adversaries: Iterable[nn.Module]) -> list[Optimizer]:
    """Return a new optimizer for each adversary.

    Raises:
        ValueError: if torch rejects a setting; the message names the keys.
    """
    try:
        return [make(adversary.named_parameters()) for adversary in adversaries]
    except ValueError as error:
        keywords: dict[str, object] = getattr(make, "keywords", {})
        said = ", ".join(f"task.adversary_optimizer.{name}={value}" for name, value in keywords.items())
        raise ValueError(f"{error}: change one of {said}.") from error

"""The adaptive weight of the adversarial loss."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def gradient_norm(gradients: Iterable[Tensor | None]) -> Float[Tensor, ""]:
    """Return the Euclidean norm of all gradients as one vector; None counts as zero."""
    return torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])


def adaptive_weight(
    reference: Sequence[Tensor | None],
    adversarial: Sequence[Tensor | None],
    ratio: float,
    bounds: tuple[float, float],
) -> Float[Tensor, ""]:
    """Return the weight at which the adversarial gradient has `ratio` times the norm of the reference gradient.

    lambda = ratio * |g_reference| / (|g_adversarial| + 1e-8), clamped to `bounds`. Equation 7 of Esser et al. 2021,
    https://arxiv.org/abs/2012.09841, uses ratio 1 and gradients of the decoder's last layer; here, the gradients are
    those of the whole decoder.

    Args:
        reference: gradient of all other losses for each parameter.
        adversarial: gradient of the adversarial loss for each parameter.
        ratio: ratio of the two norms after weighting.
        bounds: smallest and largest weight.
    """
    weight = ratio * gradient_norm(reference) / (gradient_norm(adversarial) + 1e-8)
    return weight.clamp(*bounds)

"""The weight of an adversarial loss, from the gradients that it is added to."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def gradient_norm(gradients: Iterable[Tensor | None]) -> Float[Tensor, ""]:
    """Return the Euclidean norm of all gradients together; None counts as zeros."""
    return torch.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])


def adaptive_weight(
    reference: Sequence[Tensor | None],
    adversarial: Sequence[Tensor | None],
    ratio: float,
    bounds: tuple[float, float],
) -> Float[Tensor, ""]:
    """Return the weight with which the adversarial gradient has `ratio` times the norm of the reference gradient.

    lambda = ratio * |g_reference| / (|g_adversarial| + 1e-8), clamped to `bounds`: equation 7 of Esser et al. 2021,
    https://arxiv.org/abs/2012.09841, with ratio 1 and the gradients of the decoder's last layer. Here they are those of
    the whole decoder.

    Args:
        reference: gradients of all other losses, by parameter.
        adversarial: gradients of the adversarial loss, by parameter.
        ratio: of the two norms, once weighted.
        bounds: least and largest weight.
    """
    weight = ratio * gradient_norm(reference) / (gradient_norm(adversarial) + 1e-8)
    return weight.clamp(*bounds)

"""The one kind of batch that all of vae_lab passes around."""

from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor


class Sample(NamedTuple):
    """A batch of images with pixels in [0, 1] and their class labels (all 0 where a set has no classes)."""

    image: Float[Tensor, "batch channels height width"]
    label: Int64[Tensor, " batch"]

"""Lightning's precision names, and bf16-mixed with gradient clipping for fused optimizers."""

import logging

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer

from vae_lab.system.devices import fastest_precision

log = logging.getLogger(__name__)

OLDER = {"bf16": "bf16-mixed", "16": "16-mixed"}
"""Lightning's deprecated precision names."""


class Bfloat16Mixed(MixedPrecision):
    """Lightning's plugin for bf16-mixed that also clips the gradients of fused optimizers.

    Lightning 2.6 refuses to clip for optimizers that can unscale gradients in their step. bfloat16 does not scale them.
    """

    def clip_gradients(
        self,
        optimizer: Optimizer,
        clip_val: float = 0.0,
        gradient_clip_algorithm: GradClipAlgorithmType = GradClipAlgorithmType.NORM,
    ) -> None:
        """Clip the gradients of an optimizer by norm or by value."""
        Precision.clip_gradients(self, optimizer, clip_val, gradient_clip_algorithm)


def named_precision(precision: str | int, accelerator: str) -> str | int:
    """Return Lightning's current name of a precision; resolve "auto", and on a CPU replace 16-mixed by bf16-mixed."""
    name = OLDER.get(str(precision), precision)
    if name == "auto":
        return fastest_precision(accelerator)
    if name == "16-mixed" and is_cpu(accelerator):
        log.warning("trainer.precision=%s needs a GPU: using bf16-mixed on this CPU", precision)
        return "bf16-mixed"
    return name


def bfloat16_mixed(precision: str | int, accelerator: str) -> list[Bfloat16Mixed]:
    """Return a list with the plugin for bf16-mixed; an empty list for another precision."""
    if precision != "bf16-mixed":
        return []
    return [Bfloat16Mixed("bf16-mixed", "cpu" if is_cpu(accelerator) else "cuda")]


def is_cpu(accelerator: str) -> bool:
    """Return whether an accelerator is the CPU; "auto" is the CPU if there is no GPU."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())

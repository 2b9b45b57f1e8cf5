"""Training on several devices: a process and a copy of the model for each, and one mean gradient."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy

from vae_lab.distributed import copy_first

TIMEOUT = timedelta(minutes=10)  # for one message; a process that waits longer gives up


class Replicas(DDPStrategy):
    """Lightning's data parallelism without torch's wrapper around the model.

    The wrapper exchanges gradients within one call of `backward` behind one call of `forward`. Tasks have several of
    the former, or take gradients apart, and a stretch of batches is one call to Lightning: so they average gradients
    themselves, see `vae_lab.distributed`.
    """

    def __init__(self) -> None:
        super().__init__(timeout=TIMEOUT)

    def configure_ddp(self) -> None:
        """Give all processes the weights of the first; they have drawn the same from the seed."""
        assert self.model is not None
        copy_first(self.model)

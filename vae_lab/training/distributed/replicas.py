"""A DDP strategy for tasks that average their gradients themselves."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy

from vae_lab.training.distributed.collectives import copy_first

TIMEOUT = timedelta(minutes=10)  # for one message; a process that waits longer gives up


class Replicas(DDPStrategy):
    """Lightning's data parallelism without torch's wrapper around the model, for tasks with several optimizers.

    The wrapper averages what one call of `backward` leaves in the parameters. GAN tasks take gradients of several
    losses with `torch.autograd.grad`, which it does not see: they average them themselves, see
    `vae_lab.training.distributed.gradients`.
    """

    def __init__(self) -> None:
        super().__init__(timeout=TIMEOUT)

    def configure_ddp(self) -> None:
        """Give all processes the weights of the first; they have drawn the same from the seed."""
        assert self.model is not None
        copy_first(self.model)

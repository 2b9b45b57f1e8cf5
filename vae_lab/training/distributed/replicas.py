"""A DDP strategy for tasks that average their gradients themselves."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy

from vae_lab.training.distributed.collectives import broadcast_weights

TIMEOUT = timedelta(minutes=10)  # of one message; a process that waits longer fails


class Replicas(DDPStrategy):
    """Lightning's DDP strategy without torch's DistributedDataParallel, for tasks with several optimizers.

    DistributedDataParallel averages the gradients of one call of `backward`. GAN tasks compute gradients of several
    losses with `torch.autograd.grad` and average them themselves; see `vae_lab.training.distributed.gradients`.
    """

    def __init__(self) -> None:
        super().__init__(timeout=TIMEOUT)

    def configure_ddp(self) -> None:
        """Broadcast the weights of rank 0, without DistributedDataParallel; all ranks drew the same from the seed."""
        assert self.model is not None
        broadcast_weights(self.model)

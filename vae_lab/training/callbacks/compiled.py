"""`compile=`: networks run as CUDA graphs, or by another backend of torch.compile, in training batches."""

from typing import Any

import torch
import torch._functorch.config as functorch
from lightning import Callback, LightningModule, Trainer

from vae_lab.training.tasks.task import Task


class Compiled(Callback):
    """Compiles the networks that a task trains, in place, so that checkpoints keep their keys.

    The compiled code runs in training batches alone. Validations, tests and pictures have batches of other sizes and no
    gradients, for each of which torch would compile again; they run as without this callback.

    Args:
        choice: true to record CUDA graphs of torch's own kernels, or the name of a backend of torch.compile.

    Raises:
        ValueError: if there is no such backend.
    """

    def __init__(self, choice: object) -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if choice is not True and choice not in known:
            raise ValueError(f"compile={choice} must be true, false or a backend of torch.compile: {', '.join(known)}.")
        self.backend = "cudagraphs" if choice is True else str(choice)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile the networks; torch does so in fact at the first batch.

        Raises:
            ValueError: if CUDA graphs are asked for, and the run is on no GPU.
        """
        if stage != "fit" or not isinstance(pl_module, Task):
            return
        if self.backend == "cudagraphs" and trainer.strategy.root_device.type != "cuda":
            raise ValueError(
                "compile=true records CUDA graphs, and this run is on no GPU; choose compile=false, or compile=inductor"
                " to compile for the processor."
            )
        # compiled noise would come from another generator than that which the counters set
        options: dict[str, Any] | None = {"fallback_random": True} if self.backend == "inductor" else None
        if options and trainer.strategy.root_device.type == "cuda":
            options["triton.cudagraphs"] = pl_module.automatic_optimization  # without graphs Inductor gains nothing
        for network in pl_module.trained_networks():
            network.compile(backend=self.backend, dynamic=False, options=options)
        if not pl_module.automatic_optimization:  # several losses are derived through one pass
            functorch.donated_buffer = False
        torch.compiler.set_stance("force_eager")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Let compiled code run; what CUDA graphs returned in the batch before may be overwritten."""
        torch.compiler.set_stance("default")
        torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Let it run no longer."""
        torch.compiler.set_stance("force_eager")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the networks back as they were."""
        self._undo(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the networks back as they were."""
        self._undo(pl_module)

    def _undo(self, task: LightningModule) -> None:
        torch.compiler.set_stance("default")
        for network in task.trained_networks() if isinstance(task, Task) else ():
            network._compiled_call_impl = None  # noqa: SLF001 - torch has no way back of its own

"""The setting `compile`: training batches run as CUDA graphs or with another backend of torch.compile."""

from typing import Any

import torch
import torch._functorch.config as functorch
from lightning import Callback, LightningModule, Trainer

from vae_lab.training.tasks.task import Task


class Compiled(Callback):
    """Compiles the networks of a task in place, so that the keys of checkpoints stay the same.

    The compiled code runs only in training batches. Validations, tests and figures run eagerly: torch would recompile
    for their other batch sizes and without gradients.

    Args:
        choice: true for CUDA graphs of torch's kernels, or the name of a backend of torch.compile.

    Raises:
        ValueError: if the backend is unknown.
    """

    def __init__(self, choice: object) -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if choice is not True and choice not in known:
            raise ValueError(f"compile={choice} must be true, false or a backend of torch.compile: {', '.join(known)}.")
        self.choice = str(choice).lower()
        self.backend = "cudagraphs" if choice is True else str(choice)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Mark the networks for compilation, which happens at the first batch.

        Raises:
            ValueError: if the choice is CUDA graphs, and the run is not on a GPU or its task does not allow them.
        """
        if stage != "fit" or not isinstance(pl_module, Task):
            return
        if self.backend == "cudagraphs" and not pl_module.allows_cuda_graphs:
            raise ValueError(
                f"compile={self.choice} records CUDA graphs, with which the losses of a projected discriminator and of"
                " task=staged_vaegan are not those without; choose compile=false."
            )
        if self.backend == "cudagraphs" and trainer.strategy.root_device.type != "cuda":
            raise ValueError(
                f"compile={self.choice} records CUDA graphs, but this run is not on a GPU; choose compile=false, or"
                " compile=inductor to compile for the CPU."
            )
        # without this option, Inductor draws noise from its own generator, which is not seeded per batch
        options: dict[str, Any] | None = {"fallback_random": True} if self.backend == "inductor" else None
        if options and trainer.strategy.root_device.type == "cuda":
            options["triton.cudagraphs"] = pl_module.automatic_optimization  # Inductor is faster only with graphs
        for network in pl_module.trained_networks():
            network.compile(backend=self.backend, dynamic=False, options=options)
        if not pl_module.automatic_optimization:  # several losses differentiate the same forward pass
            functorch.donated_buffer = False
        torch.compiler.set_stance("force_eager")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Enable compiled code, and allow CUDA graphs to overwrite the outputs of the previous batch."""
        torch.compiler.set_stance("default")
        torch.compiler.cudagraph_mark_step_begin()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Switch to eager execution until the next training batch."""
        torch.compiler.set_stance("force_eager")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo the compilation of the networks."""
        torch.compiler.set_stance("default")
        for network in pl_module.trained_networks() if isinstance(pl_module, Task) else ():
            network._compiled_call_impl = None  # noqa: SLF001 - torch has no public way to undo compile

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo the compilation of the networks after an error."""
        self.teardown(trainer, pl_module, "fit")

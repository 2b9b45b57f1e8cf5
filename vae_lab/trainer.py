"""The Lightning trainer as vae_lab uses it: one endless epoch, ended after a number of batches that we count."""

import logging
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from vae_lab.callbacks.checkpoints import WholeCheckpointIO

log = logging.getLogger(__name__)


class StopAfter(Callback):
    """Ends training after `max_steps` batches, however many optimizers stepped in each, with a last validation."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Stop the trainer if this was the last batch."""
        if pl_module.batches_seen >= self.max_steps:  # pyright: ignore[reportOperatorIssue]
            trainer.should_stop = True


def build(
    *,
    max_steps: int,
    val_every: int,
    precision: str,
    callbacks: list[Callback],
    **settings: Any,  # noqa: ANN401
) -> Trainer:
    """Return a trainer whose settings count batches; its loggers are set once everything else is known to be right.

    Args:
        max_steps: batches to train on.
        val_every: batches between two validations; there is always one at the end.
        precision: Lightning's names, or "auto": bf16-mixed where the processor multiplies in bfloat16, else 32-true.
        callbacks: whatever watches.
        settings: any other argument of `lightning.Trainer`.
    """
    for name, value in (("max_steps", max_steps), ("val_every", val_every)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"trainer.{name} must be a whole number of at least 1, not {value}.")
    return Trainer(
        max_epochs=1,
        max_steps=-1,
        limit_train_batches=max_steps,
        log_every_n_steps=max_steps,  # the task logs by itself
        val_check_interval=min(val_every, max_steps),
        num_sanity_val_steps=0,
        precision=fastest_precision(settings.get("accelerator", "auto")) if precision == "auto" else precision,  # pyright: ignore[reportArgumentType]
        callbacks=[StopAfter(max_steps), *callbacks],
        logger=False,
        plugins=[WholeCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **settings,
    )


def fastest_precision(accelerator: str) -> str:
    """Return "bf16-mixed" where the device that training will use has bfloat16 arithmetic, else "32-true"."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = accelerator in ("auto", "cpu") and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    return "bf16-mixed" if fast else "32-true"

"""Callback hooks that do nothing are removed from the training loop."""

from collections.abc import Iterable

from lightning import Callback

HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
"""What Lightning calls in each batch of training."""


def skip_idle_hooks(callbacks: Iterable[Callback]) -> None:
    """Have Lightning pass over the hooks of a batch that callbacks inherit as they are.

    Lightning 2.6 opens a context of the profiler for each hook of each callback, also where the hook does nothing: with
    a dozen callbacks 70 contexts a step. It passes over a hook that is not callable.
    """
    for callback in callbacks:
        for name in HOOKS:
            if getattr(type(callback), name) is getattr(Callback, name) and name not in vars(callback):
                setattr(callback, name, None)

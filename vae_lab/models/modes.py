"""A context manager for evaluation mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode, and leave every module of theirs in the mode that it was in.

    A function that is handed a model of somebody else's neither gives a wrong answer because the model is being trained
    (batch statistics, dropout) nor changes what goes on afterwards.
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training

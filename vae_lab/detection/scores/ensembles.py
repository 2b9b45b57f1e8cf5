"""Anomaly scores of several models combined."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.detection.scores.anomaly import Score
from vae_lab.probability.scores import Nats


class Ensemble(nn.Module, ABC):
    """The role: makes one score of those that several models give an image.

    Args:
        member: the score that each model gives.
    """

    def __init__(self, member: Score) -> None:
        super().__init__()
        self.member = member

    @abstractmethod
    def forward(self, scores: Float[Tensor, "nmodels batch"]) -> Nats:
        """Return one number for each image."""


class WAIC(Ensemble):
    """The mean over models of an image's negative log-likelihood plus its variance over them.

    Choi, Jang and Alemi 2018, https://arxiv.org/abs/1810.01392. The sum has no unit; the paper adds them as they are.
    """

    def forward(self, scores: Float[Tensor, "nmodels batch"]) -> Nats:
        """Return the sum for each image."""
        return scores.mean(0) + torch.var(scores, dim=0)


class EnsembleMean(Ensemble):
    """The mean over models of an image's score."""

    def forward(self, scores: Float[Tensor, "nmodels batch"]) -> Nats:
        """Return the mean for each image."""
        return scores.mean(0)

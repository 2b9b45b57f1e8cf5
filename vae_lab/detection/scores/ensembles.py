"""Combinations of the anomaly scores of several models."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.detection.scores.anomaly import Score
from vae_lab.probability.scores import Nats


class Ensemble(nn.Module, ABC):
    """Base class of ensemble scores, which combine the scores of an image under several models into one.

    Args:
        member: the score computed with each model.
    """

    def __init__(self, member: Score) -> None:
        super().__init__()
        self.member = member

    @abstractmethod
    def forward(self, scores: Float[Tensor, "nmodels batch"]) -> Nats:
        """Return one score per image, combined from its scores under several models."""


class WAIC(Ensemble):
    """The mean plus the variance, over models, of an image's negative log-likelihood.

    Choi, Jang and Alemi 2018, https://arxiv.org/abs/1810.01392. The sum has no consistent unit; the paper uses it as
    it is.
    """

    def forward(self, scores: Float[Tensor, "nmodels batch"]) -> Nats:
        """Return the mean plus the variance over models, for each image."""
        return scores.mean(0) + torch.var(scores, dim=0)


class EnsembleMean(Ensemble):
    """The mean of an image's score over models."""

    def forward(self, scores: Float[Tensor, "nmodels batch"]) -> Nats:
        """Return the mean over models, for each image."""
        return scores.mean(0)

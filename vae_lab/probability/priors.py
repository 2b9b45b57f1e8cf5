"""Priors p(z): modules that return a `Distribution` over latents."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from vae_lab.probability import distributions


class Prior(nn.Module, ABC):
    """A density over latent vectors of length `nlatent`."""

    def __init__(self, nlatent: int) -> None:
        super().__init__()
        self.nlatent = nlatent

    @abstractmethod
    def forward(self, posterior: Distribution | None = None) -> Distribution:
        """Return p(z), event [nlatent].

        Args:
            posterior: what the prior will be compared with, whose batch shape it takes; None gives a single p(z) to
                sample from, with batch shape [].
        """


class StandardNormal(Prior):
    """N(0, I)."""

    zeros: Float[Tensor, " nlatent"]

    def __init__(self, nlatent: int) -> None:
        super().__init__(nlatent)
        self.register_buffer("zeros", torch.zeros(nlatent), persistent=False)

    def forward(self, posterior: Distribution | None = None) -> distributions.StandardNormal:
        """Return N(0, I), which needs no batch shape of its own: it broadcasts."""
        return distributions.StandardNormal(self.zeros)

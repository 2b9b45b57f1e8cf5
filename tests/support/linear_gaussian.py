"""A VAE whose every quantity has a closed form: linear maps, normal densities, the exact posterior."""

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vae_lab.models.vae import VAE
from vae_lab.probability.distributions import IsotropicNormal
from vae_lab.probability.likelihoods import Likelihood
from vae_lab.probability.priors import StandardNormal

NLATENT, SIDE, VARIANCE = 3, 2, 0.3


class Identity(Likelihood):
    """A normal around the decoder's output itself, so that the whole model is linear and Gaussian."""

    def forward(self, output: Tensor) -> IsotropicNormal:
        return IsotropicNormal(output, VARIANCE)


class Decoder(nn.Module):
    """x = W z."""

    def __init__(self, nin: int, image_size: int, nout: int) -> None:
        super().__init__()
        # orthogonal columns make the exact posterior diagonal
        weight = torch.linalg.qr(torch.randn(nout * image_size**2, nin, generator=torch.Generator().manual_seed(1)))[0]
        self.weight = nn.Parameter(weight * torch.tensor([2.0, 1.0, 0.5]))

    def forward(self, z: Tensor) -> Tensor:
        return (z @ self.weight.T).view(-1, 1, SIDE, SIDE)


class Encoder(nn.Module):
    """The exact posterior: precision I + W'W / variance, mean = precision^-1 W'x / variance."""

    def __init__(self, nin: int, image_size: int, nout: int) -> None:
        super().__init__()
        self.weight = Decoder(nout // 2, image_size, nin).weight

    def forward(self, image: Tensor) -> Tensor:
        precision = 1 + self.weight.square().sum(0) / VARIANCE
        mean = image.flatten(1) @ self.weight / VARIANCE / precision
        return torch.cat([mean, -precision.log().expand_as(mean)], 1)


def linear_gaussian_vae() -> VAE:
    """A model whose posterior is exact as long as nobody touches its weights."""
    return VAE(
        encoder=Encoder, decoder=Decoder, likelihood=Identity(), prior=StandardNormal,
        nlatent=NLATENT, channels=1, image_size=SIDE,
    )  # fmt: skip


def marginal(model: VAE) -> MultivariateNormal:
    """p(x) = N(0, W W' + variance)."""
    weight = model.decoder.weight
    assert isinstance(weight, Tensor)
    return MultivariateNormal(torch.zeros(SIDE**2), weight.detach() @ weight.detach().T + VARIANCE * torch.eye(SIDE**2))

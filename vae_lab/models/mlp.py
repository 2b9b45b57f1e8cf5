"""Fully connected residual encoder and decoder, for small images and CPUs.

    image -> linear -> blocks -> linear -> nout        z -> linear -> blocks -> linear -> image

Published likelihoods on binarized MNIST use two layers of 500 units with tanh. With 40 latents and batch size 128, our
test negative ELBO was 91.2 nats for that network after 50,000 batches, 90.3 with SiLU after 60,000 batches, and 90.4
after 10,000 batches for one residual block of 512 units in encoder and decoder.
"""

from jaxtyping import Float
from torch import Tensor, nn

from vae_lab.errors import require_count
from vae_lab.models.topdown import shrink

State = Float[Tensor, "batch width"]


class Block(nn.Module):
    """A residual block of two linear layers, initialized close to the identity: [B, width] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        self.body = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        shrink(last)

    def forward(self, x: State) -> State:
        """Return x + body(x)."""
        return x + self.body(x)


def stack(nin: int, nout: int, width: int, nblocks: int) -> nn.Sequential:
    """Return a network: linear layer to `width`, `nblocks` residual blocks, SiLU, linear layer to `nout`.

    Raises:
        ValueError: if a count is below 1.
    """
    require_count("model.width", width)
    require_count("model.nblocks", nblocks)
    require_count("model.nin", nin)
    require_count("model.nout", nout)
    blocks = [Block(width) for _ in range(nblocks)]
    return nn.Sequential(nn.Linear(nin, width), *blocks, nn.SiLU(), nn.Linear(width, nout))


class MLPEncoder(nn.Module):
    """Fully connected encoder: [B, nin, k, k] -> [B, nout].

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from vae_lab.models.mlp import MLPEncoder
        >>> network = partial(MLPEncoder, width=32, nblocks=1)
        >>> encoder = network(nin=1, image_size=8, nout=4)
        >>> encoder(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    def __init__(self, nin: int, image_size: int, nout: int, *, width: int, nblocks: int) -> None:
        super().__init__()
        self.layers = stack(nin * image_size**2, nout, width, nblocks)

    def forward(self, image: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout"]:
        """Return the network's `nout` outputs for each image."""
        return self.layers(image.flatten(1))


class MLPDecoder(nn.Module):
    """Fully connected decoder: [B, nin] -> [B, nout, k, k]."""

    def __init__(self, nin: int, image_size: int, nout: int, *, width: int, nblocks: int) -> None:
        super().__init__()
        self.shape = (nout, image_size, image_size)
        self.layers = stack(nin, nout * image_size**2, width, nblocks)

    def forward(self, z: Float[Tensor, "batch nin"]) -> Float[Tensor, "batch nout height width"]:
        """Return the network's `nout` outputs for each pixel."""
        return self.layers(z).unflatten(1, self.shape)

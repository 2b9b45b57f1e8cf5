"""A transposed convolution that adds its bias separately, which is faster with oneDNN."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d


class TransposedConv2d(nn.ConvTranspose2d):
    """What `torch.nn.ConvTranspose2d` computes: [B, nin, h, w] -> [B, nout, h', w'], with the same weights.

    Given a bias and a stride above 1, oneDNN convolves into memory of its own and copies with the bias from there: on a
    processor with AVX512 that doubles the memory of the call, and three to four times the time goes into forward and
    backward pass in bfloat16 (`python -m benchmarks.transposed`).
    """

    bias: nn.Parameter

    def forward(self, x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout height2 width2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the transposed convolution plus the bias, in the convolution's precision."""
        y = conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)  # pyright: ignore[reportArgumentType]
        return y.add_(self.bias.to(y.dtype)[:, None, None])

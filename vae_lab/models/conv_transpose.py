"""A transposed convolution that adds its bias in a separate operation, which is faster with oneDNN."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d


class TransposedConv2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with the same weights and result: [B, nin, h, w] -> [B, nout, h', w'].

    With a bias and a stride above 1, oneDNN writes to a buffer of its own and copies from it. On a processor with
    AVX512 this doubles the memory of the call and makes forward and backward pass in bfloat16 three to four times as
    slow (`python -m benchmarks.transposed`).
    """

    bias: nn.Parameter

    def forward(self, x: Float[Tensor, "batch nin height width"]) -> Float[Tensor, "batch nout height2 width2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the transposed convolution plus the bias, in the convolution's precision."""
        y = conv_transpose2d(x, self.weight, None, self.stride, self.padding, self.output_padding)  # pyright: ignore[reportArgumentType]
        return y.add_(self.bias.to(y.dtype)[:, None, None])

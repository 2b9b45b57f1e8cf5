"""A transposed convolution with its bias added by itself, against one whose bias is given along.

    make bench                             runs this last
    python -m benchmarks.transposed

Both compute the same (tests/models/test_networks.py). They take turns, forward and backward; the ratio is that of the
medians.
"""

import statistics
import time

import torch
from torch import Tensor, nn

from vae_lab.models.conv_transpose import TransposedConv2d
from vae_lab.runs.provenance import processor_name

TURNS, CALLS = 7, 10
CASES = {
    "8x8 to 15x15, 64 channels, 32 images": ((64, 64, 4, 2, 2, 1), (32, 64, 8, 8)),
    "33x33 to 65x65, 64 channels, 8 images": ((64, 64, 4, 2, 2, 1), (8, 64, 33, 33)),
}


def seconds(layer: nn.Module, x: Tensor) -> float:
    """Return how long a forward and backward pass takes."""
    start = time.perf_counter()
    for _ in range(CALLS):
        y = layer(x)
        y.backward(torch.ones_like(y))
    return (time.perf_counter() - start) / CALLS


def main() -> None:
    """Print a row for each size and precision."""
    print(f"{processor_name()}, {torch.get_num_threads()} threads")
    for dtype in (torch.bfloat16, torch.float32):
        for title, (settings, shape) in CASES.items():
            layers = [
                kind(*settings).to(dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
                for kind in (TransposedConv2d, nn.ConvTranspose2d)
            ]
            x = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
            turns = [[seconds(layer, x) for layer in layers] for _ in range(TURNS)][1:]
            ours, theirs = (1e3 * statistics.median(times) for times in zip(*turns, strict=True))
            print(f"{dtype!s:15} {title:38} {ours:6.2f} ms, bias given along {theirs:6.2f}: {ours / theirs:.2f} of it")


if __name__ == "__main__":
    main()
